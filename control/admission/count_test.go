package admission

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Answers are told apart by namespace and owner, and not without end.
func TestCounts(t *testing.T) {
	s, _ := server(t, nil, nil)
	yes := true
	of := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Controller: &yes}}}}
	s.count("a", of, "")
	s.count("a", of, "")
	s.count("a", &corev1.Pod{}, "host_network_enabled")
	_, answers := s.Counts()
	if len(answers) != 2 || answers[Answer{"a", "replicaset", ""}] != 2 || answers[Answer{"a", "pod", "host_network_enabled"}] != 1 {
		t.Errorf("%v", answers)
	}
	for n := range 2 * maxCounted {
		s.count(fmt.Sprint(n), of, "")
	}
	s.count("a", of, "")
	_, answers = s.Counts()
	if len(answers) > maxCounted+1 || answers[Answer{"", "replicaset", ""}] != maxCounted+2 || answers[Answer{"a", "replicaset", ""}] != 3 {
		t.Errorf("%d kinds of answers, %d beyond the bound", len(answers), answers[Answer{"", "replicaset", ""}])
	}
}
