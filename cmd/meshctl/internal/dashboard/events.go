package dashboard

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// eventsPath answers with the Events of one workload, which the API server lists for
// the person.
const eventsPath = "/dashboard/events"

const (
	eventsWithin  = 10 * time.Second
	eventsAtOnce  = 500 // of a list
	maxEventLists = 4
	maxEventBytes = 4 << 20 // of one
	maxEvents     = 100     // that the page is told
)

// Events are what the page is told of a workload's past.
type Events struct {
	// Kept: there is somebody who keeps Events. A local mesh has none.
	Kept bool `json:"kept"`
	// Partial: the namespace has more than were looked at.
	Partial bool    `json:"partial"`
	List    []Event `json:"events"` // the latest first
}

// Event is what the page shows of one of Kubernetes' Events.
type Event struct {
	At      time.Time `json:"at"` // the last time
	Warning bool      `json:"warning"`
	Reason  string    `json:"reason"`
	Object  string    `json:"object"`
	Message string    `json:"message"`
	Count   int32     `json:"count"`
}

// events answers with those of the workload that the query names. Of Kubernetes'
// own API the browser reaches this alone: one question, put together here.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	namespace, kind, name := q.Get("namespace"), q.Get("kind"), q.Get("name")
	of, known := ownedBy(kind, name)
	if !known || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		s.refuse(w, r, &refusal{http.StatusBadRequest, fmt.Sprintf("events of %s %q in namespace %q: want a deployment, statefulset or daemonset by its name", kind, name, namespace)})
		return
	}
	if s.cfg.Session.Local {
		writeJSON(w, Events{List: []Event{}})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), eventsWithin)
	defer cancel()
	all := Events{Kept: true, List: []Event{}}
	next := ""
	for range maxEventLists {
		list, why := s.listEvents(ctx, namespace, next)
		if why != nil {
			s.refuse(w, r, why)
			return
		}
		for i := range list.Items {
			if e := &list.Items[i]; of.MatchString(e.InvolvedObject.Kind + "/" + e.InvolvedObject.Name) {
				all.List = append(all.List, shown(e))
			}
		}
		if next = list.Continue; next == "" {
			break
		}
	}
	all.Partial = next != ""
	slices.SortStableFunc(all.List, func(a, b Event) int { return cmp.Or(b.At.Compare(a.At), strings.Compare(a.Object, b.Object)) })
	all.List = all.List[:min(len(all.List), maxEvents)]
	writeJSON(w, all)
}

// listEvents asks the API server for some of a namespace's.
func (s *Server) listEvents(ctx context.Context, namespace, next string) (*corev1.EventList, *refusal) {
	u := s.cfg.Target.JoinPath("api/v1/namespaces", namespace, "events")
	u.RawQuery = url.Values{"limit": {strconv.Itoa(eventsAtOnce)}}.Encode()
	if next != "" {
		u.RawQuery += "&continue=" + url.QueryEscape(next)
	}
	away := func(err error) *refusal {
		return &refusal{http.StatusBadGateway, fmt.Sprintf("%s does not list events of namespace %s: %v", s.cfg.Session.Mesh, namespace, err)}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, away(err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.cfg.Transport.RoundTrip(req)
	if err != nil {
		return nil, away(err)
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, maxEventBytes)
	if resp.StatusCode != http.StatusOK {
		var said struct{ Message string }
		_ = json.NewDecoder(body).Decode(&said) // without a message the status has to do
		return nil, &refusal{resp.StatusCode, cmp.Or(said.Message, fmt.Sprintf("events of namespace %s: %s", namespace, resp.Status))}
	}
	list := new(corev1.EventList)
	if err := json.NewDecoder(body).Decode(list); err != nil {
		return nil, away(err)
	}
	return list, nil
}

// ownedBy matches KIND/NAME of a workload and of what its controllers make for it;
// false: the console has no page of such a kind. Hashes and the ends of pods' names
// have letters that make no words, so that web is not taken for the owner of web-api's.
func ownedBy(kind, name string) (*regexp.Regexp, bool) {
	const safe = "[bcdfghjklmnpqrstvwxz2456789]"
	n := regexp.QuoteMeta(name)
	text, known := map[string]string{
		"deployment":  "Deployment/" + n + "|ReplicaSet/" + n + "-" + safe + "{1,10}|Pod/" + n + "-" + safe + "{1,10}-" + safe + "{5}",
		"statefulset": "StatefulSet/" + n + "|Pod/" + n + "-[0-9]+",
		"daemonset":   "DaemonSet/" + n + "|Pod/" + n + "-" + safe + "{5}",
	}[kind]
	if !known {
		return nil, false
	}
	return regexp.MustCompile("^(" + text + ")$"), true
}

func shown(e *corev1.Event) Event {
	at, count := e.LastTimestamp.Time, e.Count
	if e.Series != nil {
		at, count = e.Series.LastObservedTime.Time, e.Series.Count
	}
	if at.IsZero() {
		at = e.EventTime.Time
	}
	if at.IsZero() {
		at = e.CreationTimestamp.Time
	}
	return Event{
		At: at, Warning: e.Type == corev1.EventTypeWarning, Reason: e.Reason,
		Object: strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name, Message: e.Message, Count: max(1, count),
	}
}
