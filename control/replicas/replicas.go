package replicas

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/tap"
)

const (
	// lookAgain is how often a tap looks for replicas that came or went.
	lookAgain = time.Second
	// noneAfter is after how long without any replica a tap gives up.
	noneAfter = 5 * time.Second
	// queue bounds what waits of all replicas for a slow watcher; what waits beyond
	// waits at the replicas, which lose it and say so.
	queue = 64
)

// Set asks all replicas.
type Set struct {
	member *Member
	list   func() []netip.AddrPort
	log    *slog.Logger
}

// NewSet returns one. list says where the replicas are now.
func NewSet(m *Member, list func() []netip.AddrPort, log *slog.Logger) *Set {
	return &Set{member: m, list: list, log: log}
}

// dial returns a connection, which is made when it is used.
func (s *Set) dial(at netip.AddrPort) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+at.String(),
		grpc.WithTransportCredentials(credentials.NewTLS(s.member.tls(true))),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithIdleTimeout(time.Minute))
}

// Health asks every replica for its health and returns those that answered.
func (s *Set) Health(ctx context.Context) []*api.HealthResponse {
	ctx, cancel := context.WithTimeout(ctx, callTimeout/2)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		list []*api.HealthResponse
	)
	for _, at := range s.list() {
		wg.Go(func() {
			conn, err := s.dial(at)
			if err == nil {
				defer conn.Close()
				var resp *api.HealthResponse
				if resp, err = api.NewQueryClient(conn).Health(ctx, &api.HealthRequest{}); err == nil {
					mu.Lock()
					defer mu.Unlock()
					list = append(list, resp)
					return
				}
			}
			s.log.Warn("a replica does not say how it is", "replica", at.String(), "err", err)
		})
	}
	wg.Wait()
	return list
}

// Policy asks one replica after another: each answers the same. Its errors are
// gRPC statuses.
func (s *Set) Policy(ctx context.Context, req *api.PolicyRequest) (*api.PolicyResponse, error) {
	err := errors.New("there is none")
	for _, at := range s.list() {
		var resp *api.PolicyResponse
		if resp, err = s.policy(ctx, at, req); err == nil {
			return resp, nil
		}
		switch status.Code(err) {
		case codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition:
			return nil, err
		}
	}
	return nil, status.Errorf(codes.Unavailable, "no replica of the control plane answers: %v", err)
}

func (s *Set) policy(ctx context.Context, at netip.AddrPort, req *api.PolicyRequest) (*api.PolicyResponse, error) {
	conn, err := s.dial(at)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout/5) // others may be left
	defer cancel()
	return api.NewQueryClient(conn).Policy(ctx, req)
}

// Watch opens a tap at every replica and calls send for each message of any, one
// at a time, until ctx ends or send fails. Its errors are gRPC statuses.
func (s *Set) Watch(ctx context.Context, req *api.TapRequest, send func(*api.TapMessage) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	m := &merge{set: s, req: req, out: make(chan *api.TapMessage, queue), failed: make(chan error, 1), running: map[netip.AddrPort]context.CancelFunc{}}
	m.follow(ctx, &wg)
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	gate := tap.NewGate[string](req.GetMaxRps())
	begun, deadline, lost := false, time.Now().Add(noneAfter), uint64(0)
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case err := <-m.failed:
			if !begun { // else one that has just started does not know what the others do
				return err
			}
		case <-look.C:
			m.follow(ctx, &wg)
			if !begun && time.Now().After(deadline) {
				return m.none()
			}
			if lost == 0 {
				continue
			}
			if err := send(&api.TapMessage{Message: &api.TapMessage_Lost{Lost: lost}}); err != nil {
				return err
			}
			lost = 0
		case msg := <-m.out:
			begun = true
			if e := msg.GetEvent(); e != nil {
				ok, full := gate.Admit(e.GetObserver(), e)
				if full {
					lost++
				}
				if !ok {
					continue
				}
			}
			if err := send(msg); err != nil {
				return err
			}
		}
	}
}

// merge is one tap at all replicas.
type merge struct {
	set    *Set
	req    *api.TapRequest
	out    chan *api.TapMessage
	failed chan error // of one slot: the first that no other replica would mend

	running map[netip.AddrPort]context.CancelFunc

	mu   sync.Mutex
	last error // of a replica that could not be reached
}

// follow opens the tap at replicas that are new and ends it at those that are
// gone.
func (m *merge) follow(ctx context.Context, wg *sync.WaitGroup) {
	want := map[netip.AddrPort]bool{}
	for _, at := range m.set.list() {
		want[at] = true
		if m.running[at] == nil {
			sub, stop := context.WithCancel(ctx)
			m.running[at] = stop
			wg.Go(func() { m.one(sub, at) })
		}
	}
	for at, stop := range m.running {
		if !want[at] {
			stop()
			delete(m.running, at)
		}
	}
}

// none says why no replica answers.
func (m *merge) none() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last == nil {
		m.last = errors.New("there is none")
	}
	return status.Errorf(codes.Unavailable, "no replica of the control plane answers: %v", m.last)
}

// one keeps the tap open at one replica.
func (m *merge) one(ctx context.Context, at netip.AddrPort) {
	conn, err := m.set.dial(at)
	if err != nil {
		m.set.log.Error("a replica is left out of a tap", "replica", at.String(), "err", err)
		return
	}
	defer conn.Close()
	for ctx.Err() == nil {
		err := m.stream(ctx, conn)
		switch status.Code(err) {
		case codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.ResourceExhausted:
			select {
			case m.failed <- err: // all replicas know the same
			default:
			}
		}
		m.mu.Lock()
		m.last = err
		m.mu.Unlock()
		timer := time.NewTimer(retryAfter)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (m *merge) stream(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := api.NewQueryClient(conn).Tap(ctx, m.req)
	if err != nil {
		return err
	}
	for {
		msg, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case m.out <- msg:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
