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
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, status.Errorf(codes.InvalidArgument, "query of the URL: %v", err))
		return
	}
	if err := known(params, q.subresource); err != nil {
		fail(w, err)
		return
	}
	var m proto.Message
	switch q.subresource {
	case subTap:
		s.tap(w, r, user, q, params)
		return
	case subStat:
		m, err = s.stat(r, user, q, params)
	case subEndpoints:
		m, err = s.cfg.Backend.Endpoints(r.Context(), &api.EndpointsRequest{Authority: q.name + "." + q.namespace + ":" + params.Get("port")})
	case subPolicy:
		m, err = s.policy(r, q, params)
	default:
		m, err = s.cfg.Backend.Health(r.Context(), &api.HealthRequest{})
	}
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

// known refuses parameters that would do nothing.
func known(params url.Values, sub string) error {
	may := map[string][]string{subStat: {"window", "to", "from", "labelSelector"}, subTap: {"labelSelector"}, subEndpoints: {"port"}, subPolicy: {"port"}}[sub]
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
	req := &api.StatRequest{Resource: q.selector(params.Get("labelSelector"))}
	if v := params.Get("window"); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "window=%q: want a number of seconds", v)
		}
		req.WindowSeconds = uint32(n)
	}
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
	return s.cfg.Backend.Stat(r.Context(), req)
}

// policy answers with what sidecars are told of a port.
func (s *Server) policy(r *http.Request, q question, params url.Values) (*api.PolicyResponse, error) {
	port, err := strconv.ParseUint(params.Get("port"), 10, 16)
	if err != nil || port == 0 {
		return nil, status.Errorf(codes.InvalidArgument, "port=%q: want a port's number", params.Get("port"))
	}
	return s.cfg.Backend.Policy(r.Context(), &api.PolicyRequest{Resource: q.selector(""), Port: uint32(port)})
}

// tap streams messages, a JSON document to a line, until the watcher leaves.
func (s *Server) tap(w http.ResponseWriter, r *http.Request, user User, q question, params url.Values) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		fail(w, status.Errorf(codes.InvalidArgument, "read the request: %v", err))
		return
	}
	req := &api.TapRequest{}
	if len(body) > 0 {
		if err := protojson.Unmarshal(body, req); err != nil {
			fail(w, status.Errorf(codes.InvalidArgument, "read the request: %v", err))
			return
		}
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
	err = s.cfg.Backend.Watch(r.Context(), req, t.send)
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

func (t *tapWriter) send(m *api.TapMessage) error {
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
