package kubelet

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestHooksThatAreNotRun(t *testing.T) {
	command := &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}
	get := &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{}}
	for _, c := range []struct {
		name    string
		l       *corev1.Lifecycle
		refused bool
	}{
		{"none", nil, false},
		{"a command at the start", &corev1.Lifecycle{PostStart: command}, false},
		{"empty", &corev1.Lifecycle{}, true},
		{"a request at the start", &corev1.Lifecycle{PostStart: get}, true},
		{"a command at the end", &corev1.Lifecycle{PreStop: command}, true},
		{"both", &corev1.Lifecycle{PostStart: command, PreStop: command}, true},
	} {
		var said []string
		refusePod(&corev1.PodSpec{Containers: []corev1.Container{{Lifecycle: c.l}}}, func(path, why string) { said = append(said, path+": "+why) })
		if (len(said) > 0) != c.refused || c.refused && !strings.Contains(said[0], "containers[0].lifecycle: of hooks") {
			t.Errorf("%s: %q", c.name, said)
		}
	}
}
