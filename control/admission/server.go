package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control/inject"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Path is where the API server asks.
const Path = "/inject"

const (
	// maxReview bounds a question: the API server takes objects of 3 MiB at most.
	maxReview = 8 << 20
	// maxReviews bounds the questions that are answered at once: each holds a pod.
	maxReviews = 32
	// namespaceWait bounds the look at a pod's namespace; the API server itself
	// waits for at most some seconds.
	namespaceWait = 2 * time.Second
)

// Config says what a Server works with.
type Config struct {
	// Inject says what to inject; its NamespaceAnnotations are those of the pod's.
	Inject inject.Config
	// Namespace returns a namespace's annotations; required. An error leaves the
	// pod to the webhook's failure policy.
	Namespace func(ctx context.Context, name string) (map[string]string, error)
	// Linkerd reports whether Linkerd's own injector is there; nil = never.
	Linkerd func() bool
	// Notice is told what somebody should know of; it must not block. nil = nobody.
	Notice func(Notice)
	Logger *slog.Logger // nil = discard
}

// Notice is an event to be.
type Notice struct {
	// About is the pod's owner, or the pod, which has no UID yet.
	About   corev1.ObjectReference
	Reason  string
	Message string
}

// Reasons of notices.
const (
	Skipped = "InjectionSkipped"
	Ignored = "AnnotationIgnored"
)

// Server answers the API server.
type Server struct {
	cfg    Config
	places chan struct{}

	mu      sync.Mutex
	answers map[Answer]uint64
	asked   uint64
}

// NewServer returns one.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Namespace == nil {
		return nil, errors.New("new admission server: Namespace is needed")
	}
	if cfg.Linkerd == nil {
		cfg.Linkerd = func() bool { return false }
	}
	if cfg.Notice == nil {
		cfg.Notice = func(Notice) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, places: make(chan struct{}, maxReviews), answers: map[Answer]uint64{}}, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-r.Context().Done():
		return
	}
	s.mu.Lock()
	s.asked++
	s.mu.Unlock()
	answer, status, err := s.serve(w, r)
	if err != nil {
		s.cfg.Logger.Warn("admission not answered", "err", err)
		http.Error(w, err.Error(), status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // a client that left is no concern of ours
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) (answer []byte, status int, err error) {
	if r.URL.Path != Path {
		return nil, http.StatusNotFound, fmt.Errorf("%s: ask %s", r.URL.Path, Path)
	}
	if r.Method != http.MethodPost {
		return nil, http.StatusMethodNotAllowed, fmt.Errorf("method %s: use POST", r.Method)
	}
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/json" {
		return nil, http.StatusUnsupportedMediaType, fmt.Errorf("content type %q: want application/json", t)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReview))
	if err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("read admission review: %w", err)
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("read admission review: %w", err)
	}
	if review.Request == nil || review.APIVersion != admissionv1.SchemeGroupVersion.String() {
		return nil, http.StatusBadRequest, fmt.Errorf("admission review of version %q without a request, or not of %s", review.APIVersion, admissionv1.SchemeGroupVersion)
	}
	resp, err := s.Review(r.Context(), review.Request)
	if err != nil {
		return nil, http.StatusInternalServerError, err
	}
	review.Request, review.Response = nil, resp
	answer, err = json.Marshal(&review)
	if err != nil {
		return nil, http.StatusInternalServerError, fmt.Errorf("write admission review: %w", err)
	}
	return answer, http.StatusOK, nil
}

// Review answers one question. An error leaves the pod to the failure policy.
func (s *Server) Review(ctx context.Context, req *admissionv1.AdmissionRequest) (*admissionv1.AdmissionResponse, error) {
	resp := &admissionv1.AdmissionResponse{UID: req.UID, Allowed: true}
	if req.Kind.Kind != "Pod" || req.Kind.Group != "" || req.Operation != admissionv1.Create {
		return resp, nil
	}
	var pod corev1.Pod
	if err := json.Unmarshal(req.Object.Raw, &pod); err != nil {
		return nil, fmt.Errorf("read pod of namespace %s: %w", req.Namespace, err)
	}
	ctx, cancel := context.WithTimeout(ctx, namespaceWait)
	defer cancel()
	of, err := s.cfg.Namespace(ctx, req.Namespace)
	if err != nil {
		return nil, fmt.Errorf("inject a pod of namespace %s: %w", req.Namespace, err)
	}
	cfg := s.cfg.Inject
	cfg.NamespaceAnnotations = of
	cfg.IgnoreLinkerd = cfg.IgnoreLinkerd || s.cfg.Linkerd()
	after := pod.Spec.DeepCopy()
	annotations, reason, why := inject.Pod(pod.Annotations, after, cfg)
	s.count(req.Namespace, &pod, string(reason))
	log := s.cfg.Logger.With("namespace", req.Namespace, "pod", name(&pod))
	if reason != "" {
		log.Info("pod not injected", "reason", string(reason), "err", why)
		s.skipped(resp, req, &pod, reason, why)
		if _, claims := pod.Annotations[annotation.Injected]; !claims || reason == inject.SidecarExists {
			return resp, nil
		}
		// It says that it is injected, and is not: nobody may believe that.
		annotations = without(pod.Annotations, annotation.Injected)
	} else {
		log.Info("pod injected")
		for _, n := range inject.Notes(pod.Annotations, cfg) {
			resp.Warnings = append(resp.Warnings, warning(n))
			s.notice(req, Notice{About: about(req, &pod), Reason: Ignored, Message: n})
		}
	}
	if resp.Patch, err = patch(&pod, annotations, after); err != nil {
		return nil, fmt.Errorf("inject pod %s/%s: %w", req.Namespace, name(&pod), err)
	}
	kind := admissionv1.PatchTypeJSONPatch
	resp.PatchType = &kind
	return resp, nil
}

// skipped says why a pod that somebody wants injected is not.
func (s *Server) skipped(resp *admissionv1.AdmissionResponse, req *admissionv1.AdmissionRequest, pod *corev1.Pod, reason inject.Reason, why error) {
	switch reason {
	case inject.EnableAbsent, inject.DisablePresent, inject.SidecarExists:
		return // as it was asked for
	}
	text := "no sidecar was injected: " + string(reason)
	if why != nil {
		text += ": " + why.Error()
	}
	resp.Warnings = append(resp.Warnings, warning(text))
	s.notice(req, Notice{About: about(req, pod), Reason: Skipped, Message: text})
}

// notice passes on what is to be said, but of a pod that is only tried.
func (s *Server) notice(req *admissionv1.AdmissionRequest, n Notice) {
	if req.DryRun == nil || !*req.DryRun {
		s.cfg.Notice(n)
	}
}

// maxWarning is what people are shown of a warning at least.
const maxWarning = 240

func warning(text string) string {
	text = "tunmesh: " + strings.ToValidUTF8(text, "?")
	if len(text) > maxWarning {
		text = strings.ToValidUTF8(text[:maxWarning], "") + "…"
	}
	return text
}

func name(p *corev1.Pod) string {
	if p.Name != "" {
		return p.Name
	}
	return p.GenerateName
}

// about is whom an event about a new pod concerns: its owner, which has a name
// and people who look at it.
func about(req *admissionv1.AdmissionRequest, p *corev1.Pod) corev1.ObjectReference {
	if o := metav1.GetControllerOf(p); o != nil {
		return corev1.ObjectReference{APIVersion: o.APIVersion, Kind: o.Kind, Namespace: req.Namespace, Name: o.Name, UID: o.UID}
	}
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: req.Namespace, Name: name(p)}
}

func without(all map[string]string, name string) map[string]string {
	out := make(map[string]string, len(all))
	for k, v := range all {
		if k != name {
			out[k] = v
		}
	}
	return out
}
