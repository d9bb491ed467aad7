package admission

import (
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxCounted bounds what answers are told apart by: namespaces come and go.
const maxCounted = 4096

// Answer is what answers are counted by.
type Answer struct {
	Namespace string // "" of those beyond the bound
	OwnerKind string // of the pod's controller, in lower case; "pod": it has none
	Reason    string // why it was skipped; "": it was injected
}

// Counts are the questions so far, and the answers.
func (s *Server) Counts() (asked uint64, answers map[Answer]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, maps.Clone(s.answers)
}

// count counts an answer.
func (s *Server) count(namespace string, p *corev1.Pod, reason string) {
	a := Answer{namespace, "pod", reason}
	if o := metav1.GetControllerOf(p); o != nil {
		a.OwnerKind = strings.ToLower(o.Kind)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.answers[a]; !ok && len(s.answers) >= maxCounted {
		a.Namespace = ""
	}
	s.answers[a]++
}
