package extension

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	api "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/store"
)

// writeTimeout bounds one write to somebody who reads nothing: a tap's slow
// watcher loses events, one that has stopped loses the tap.
const writeTimeout = 30 * time.Second

// serve answers a question that its asker may ask.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, user User, q question) {
	if q.resource == consoleFiles {
		s.cfg.Console.Serve(w, r, q.name)
		return
	}
	if q.resource == prometheus {
		s.promQL(w, r, q)
		return
	}
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, status.Errorf(codes.InvalidArgument, "query of the URL: %v", err))
		return
	}
	if err := known(params, q.subresource); err != nil {
		fail(w, err)
		return
	}
	if q.subresource == subTap && q.verb == "watch" {
		s.tap(w, r, user, q, params)
		return
	}
	if q.subresource == subSeries {
		s.series(w, r, user, q, params)
		return
	}
	if q.subresource == subPcap {
		s.pcap(w, r, user, q)
		return
	}
	m, err := s.ask(r, w, user, q, params)
	if err != nil {
		fail(w, err)
		return
	}
	raw, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		fail(w, status.Errorf(codes.Internal, "write the answer: %v", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(raw, '\n')) // whoever asked may have left
}

// ask has a question answered that has one answer.
func (s *Server) ask(r *http.Request, w http.ResponseWriter, user User, q question, params url.Values) (proto.Message, error) {
	ctx, sel := r.Context(), q.selector(params.Get("labelSelector"))
	switch q.subresource {
	case subStat:
		return s.stat(r, user, q, params)
	case subEdges:
		window, err := windowOf(params)
		if err != nil {
			return nil, err
		}
		return s.cfg.Backend.Edges(ctx, &api.EdgesRequest{Resource: sel, WindowSeconds: window})
	case subRoutes:
		window, err := windowOf(params)
		if err != nil {
			return nil, err
		}
		direction := params.Get("direction")
		if direction != "inbound" && direction != "outbound" {
			return nil, status.Errorf(codes.InvalidArgument, "direction=%q: want inbound or outbound", direction)
		}
		return s.cfg.Backend.Routes(ctx, &api.RoutesRequest{Resource: sel, WindowSeconds: window, Outbound: direction == "outbound"})
	case subTap:
		return s.cfg.Backend.Taps(ctx, &api.TapsRequest{Resource: sel})
	case subEndpoints:
		return s.cfg.Backend.Endpoints(ctx, &api.EndpointsRequest{Authority: q.name + "." + q.namespace + ":" + params.Get("port")})
	case subPolicy:
		return s.policy(r, q, params)
	case subConns:
		return s.connections(r, q, params)
	}
	if q.resource == why {
		return s.why(r, w, user)
	}
	return s.cfg.Backend.Health(ctx, &api.HealthRequest{})
}

// why explains a connection. Anybody may ask; what he is told of namespaces is
// for those who may see their figures.
func (s *Server) why(r *http.Request, w http.ResponseWriter, user User) (proto.Message, error) {
	req := &api.WhyRequest{}
	if err := readBody(r, w, req); err != nil {
		return nil, err
	}
	figures := question{verb: "get", resource: "pods", subresource: subStat, namespace: req.GetFrom().GetNamespace()}
	if err := s.may(r.Context(), user, figures); err != nil {
		return nil, err
	}
	resp, err := s.cfg.Backend.Why(r.Context(), req)
	if err != nil {
		return nil, err
	}
	for _, ns := range resp.GetNamespaces() {
		if ns == figures.namespace {
			continue
		}
		q := figures
		q.namespace = ns
		if err := s.may(r.Context(), user, q); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// readBody reads a message; none is an empty one.
func readBody(r *http.Request, w http.ResponseWriter, into proto.Message) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "read the request: %v", err)
	}
	if len(body) > 0 {
		if err := protojson.Unmarshal(body, into); err != nil {
			return status.Errorf(codes.InvalidArgument, "read the request: %v", err)
		}
	}
	return nil
}

// windowOf reads how far back to look; 0: it does not say.
func windowOf(params url.Values) (uint32, error) {
	v := params.Get("window")
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil {
		return 0, status.Errorf(codes.InvalidArgument, "window=%q: want a number of seconds", v)
	}
	return uint32(n), nil
}

// known refuses parameters that would do nothing.
func known(params url.Values, sub string) error {
	may := map[string][]string{subStat: {"window", "to", "from", "labelSelector"}, subSeries: {"window", "step", "to", "from", "labelSelector"}, subTap: {"labelSelector"}, subEndpoints: {"port"}, subPolicy: {"port"}, subConns: {"limit"}, subEdges: {"window", "labelSelector"}, subRoutes: {"window", "labelSelector", "direction"}}[sub]
next:
	for name, values := range params {
		for _, m := range may {
			if name == m && len(values) == 1 {
				continue next
			}
		}
		return status.Errorf(codes.InvalidArgument, "parameter %q: want each of %q at most once, and no other", name, may)
	}
	return nil
}

// stat answers with figures. Who names another end sees some of its traffic, and
// must be allowed that, too.
func (s *Server) stat(r *http.Request, user User, q question, params url.Values) (*api.StatResponse, error) {
	req, err := s.statRequest(r, user, q, params)
	if err != nil {
		return nil, err
	}
	return s.cfg.Backend.Stat(r.Context(), req)
}

// series answers with the same over time.
func (s *Server) series(w http.ResponseWriter, r *http.Request, user User, q question, params url.Values) {
	req, err := s.statRequest(r, user, q, params)
	if err != nil {
		fail(w, err)
		return
	}
	step := uint64(0)
	if v := params.Get("step"); v != "" {
		if step, err = strconv.ParseUint(v, 10, 31); err != nil || step == 0 {
			fail(w, status.Errorf(codes.InvalidArgument, "step=%q: want a number of seconds", v))
			return
		}
	}
	found, err := s.cfg.Backend.Series(r.Context(), req, time.Duration(step)*time.Second)
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, found)
}

// promQL has what keeps the figures answer.
func (s *Server) promQL(w http.ResponseWriter, r *http.Request, q question) {
	if s.cfg.PromQL == nil {
		fail(w, status.Error(codes.Unavailable, "PromQL: figures of the past are not kept here"))
		return
	}
	r = r.Clone(r.Context())
	r.URL.Path, r.URL.RawPath = store.Prefix+q.api, ""
	s.cfg.PromQL.ServeHTTP(w, r)
}

// statRequest reads what a question about figures asks.
func (s *Server) statRequest(r *http.Request, user User, q question, params url.Values) (*api.StatRequest, error) {
	window, err := windowOf(params)
	if err != nil {
		return nil, err
	}
	req := &api.StatRequest{Resource: q.selector(params.Get("labelSelector")), WindowSeconds: window}
	for what, to := range map[string]**api.Selector{"to": &req.To, "from": &req.From} {
		other, err := parseOther(what, params.Get(what))
		if err != nil {
			return nil, err
		}
		if other == nil {
			continue
		}
		if err := s.may(r.Context(), user, *other); err != nil {
			return nil, err
		}
		*to = other.selector("")
	}
	return req, nil
}

// policy answers with what sidecars are told of a port.
func (s *Server) policy(r *http.Request, q question, params url.Values) (*api.PolicyResponse, error) {
	port, err := strconv.ParseUint(params.Get("port"), 10, 16)
	if err != nil || port == 0 {
		return nil, status.Errorf(codes.InvalidArgument, "port=%q: want a port's number", params.Get("port"))
	}
	return s.cfg.Backend.Policy(r.Context(), &api.PolicyRequest{Resource: q.selector(""), Port: uint32(port)})
}

// connections answers with what a pod's sidecar has open.
func (s *Server) connections(r *http.Request, q question, params url.Values) (*api.ConnectionsResponse, error) {
	limit := uint64(0)
	if v := params.Get("limit"); v != "" {
		var err error
		if limit, err = strconv.ParseUint(v, 10, 32); err != nil || limit == 0 {
			return nil, status.Errorf(codes.InvalidArgument, "limit=%q: want how many connections at most", v)
		}
	}
	return s.cfg.Backend.Connections(r.Context(), &api.ConnectionsRequest{Namespace: q.namespace, Pod: q.name, Limit: uint32(limit)})
}

// tap streams messages, a JSON document to a line, until the watcher leaves.
func (s *Server) tap(w http.ResponseWriter, r *http.Request, user User, q question, params url.Values) {
	req := &api.TapRequest{}
	if err := readBody(r, w, req); err != nil {
		fail(w, err)
		return
	}
	if req.GetResource() != nil {
		fail(w, status.Error(codes.InvalidArgument, "the request names a resource: the path does"))
		return
	}
	req.Resource = q.selector(params.Get("labelSelector"))
	if req.GetHeaders() {
		with := q
		with.subresource = subHeaders
		if err := s.may(r.Context(), user, with); err != nil {
			fail(w, err)
			return
		}
	}
	t := &tapWriter{w: w, c: http.NewResponseController(w)}
	err := s.cfg.Backend.Watch(r.Context(), req, func(m *api.TapMessage) error { return t.send(m) })
	switch {
	case !t.begun && err != nil:
		fail(w, err)
	case t.begun && err != nil && r.Context().Err() == nil && !errors.Is(err, errGone):
		t.end(status.Convert(err))
	}
}

// pcap streams packets as tap does events.
func (s *Server) pcap(w http.ResponseWriter, r *http.Request, user User, q question) {
	req := &api.CaptureRequest{}
	if err := readBody(r, w, req); err != nil {
		fail(w, err)
		return
	}
	if req.GetNamespace() != "" || req.GetPod() != "" {
		fail(w, status.Error(codes.InvalidArgument, "the request names a pod: the path does"))
		return
	}
	req.Namespace, req.Pod = q.namespace, q.name
	s.cfg.Logger.Warn("packets are captured", "pod", q.namespace+"/"+q.name, "user", user.Name)
	if s.cfg.Captured != nil {
		s.cfg.Captured(user.Name, q.namespace, q.name)
	}
	t := &tapWriter{w: w, c: http.NewResponseController(w)}
	err := s.cfg.Backend.Record(r.Context(), req, func(m *tapapi.Packets) error { return t.send(m) })
	switch {
	case !t.begun && err != nil:
		fail(w, err)
	case t.begun && err != nil && r.Context().Err() == nil && !errors.Is(err, errGone):
		t.end(status.Convert(err))
	}
}

var errGone = errors.New("the watcher is gone")

// tapWriter writes a tap's messages.
type tapWriter struct {
	w     http.ResponseWriter
	c     *http.ResponseController
	begun bool
}

func (t *tapWriter) send(m proto.Message) error {
	if !t.begun {
		t.begun = true
		t.w.Header().Set("Content-Type", "application/json;stream=watch")
		t.w.WriteHeader(http.StatusOK)
	}
	raw, err := protojson.Marshal(m)
	if err != nil {
		return status.Errorf(codes.Internal, "write an event: %v", err)
	}
	return t.write(append(raw, '\n'))
}

// end tells a watcher why there is no more.
func (t *tapWriter) end(s *status.Status) {
	code, reason := httpStatus(s.Code())
	raw, err := json.Marshal(statusOf(code, reason, s.Message()))
	if err == nil {
		_ = t.write(append(raw, '\n')) // nothing more can be said
	}
}

func (t *tapWriter) write(line []byte) error {
	if err := t.c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return errors.Join(errGone, err)
	}
	if _, err := t.w.Write(line); err != nil {
		return errors.Join(errGone, err)
	}
	if err := t.c.Flush(); err != nil {
		return errors.Join(errGone, err)
	}
	return nil
}
