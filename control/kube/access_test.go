package kube

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestMay(t *testing.T) {
	var asked *authorizationv1.SubjectAccessReviewSpec
	var answer authorizationv1.SubjectAccessReviewStatus
	var fail error
	c := fake.NewClientset()
	c.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		o := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		asked = &o.Spec
		o = o.DeepCopy()
		o.Status = answer
		return true, o, fail
	})
	who := Subject{Name: "ann", Groups: []string{"dev"}, Extra: map[string][]string{"scopes": {"a", "b"}}}
	what := Action{Verb: "watch", Group: "g", Version: "v", Namespace: "ns", Resource: "pods", Subresource: "tap", Name: "p"}
	for _, tc := range []struct {
		answer authorizationv1.SubjectAccessReviewStatus
		fail   error
		ok     bool
		reason string
		err    string
	}{
		{answer: authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "because"}, ok: true, reason: "because"},
		{answer: authorizationv1.SubjectAccessReviewStatus{Reason: "no rule"}, reason: "no rule"},
		{answer: authorizationv1.SubjectAccessReviewStatus{Allowed: true, Denied: true}},
		{answer: authorizationv1.SubjectAccessReviewStatus{EvaluationError: "webhook away"}, err: "webhook away"},
		{answer: authorizationv1.SubjectAccessReviewStatus{Allowed: true, EvaluationError: "one of two webhooks away"}, ok: true},
		{fail: errors.New("API server away"), err: "API server away"},
	} {
		answer, fail = tc.answer, tc.fail
		ok, reason, err := May(t.Context(), c, who, what)
		if ok != tc.ok || reason != tc.reason || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%+v: %v %q %v", tc, ok, reason, err)
		}
	}
	want := &authorizationv1.SubjectAccessReviewSpec{
		User: "ann", Groups: []string{"dev"}, Extra: map[string]authorizationv1.ExtraValue{"scopes": {"a", "b"}},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "watch", Group: "g", Version: "v", Namespace: "ns", Resource: "pods", Subresource: "tap", Name: "p"},
	}
	if !reflect.DeepEqual(asked, want) {
		t.Errorf("asked %+v", asked)
	}
}
