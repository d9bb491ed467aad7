package kube

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Subject is somebody who asks, as the API server has named him.
type Subject struct {
	Name   string
	Groups []string
	Extra  map[string][]string
}

// Action is what he wants to do; Namespace and Name "" are all.
type Action struct {
	Verb, Group, Version, Namespace, Resource, Subresource, Name string
}

// May asks the API server whether somebody may do something. An error: nobody
// could tell.
func May(ctx context.Context, c Client, who Subject, what Action) (allowed bool, reason string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: who.Name, Groups: who.Groups, Extra: map[string]authorizationv1.ExtraValue{},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: what.Verb, Group: what.Group, Version: what.Version, Namespace: what.Namespace,
			Resource: what.Resource, Subresource: what.Subresource, Name: what.Name,
		},
	}}
	for k, v := range who.Extra {
		review.Spec.Extra[k] = v
	}
	answer, err := c.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, "", fmt.Errorf("review access: %w", err)
	}
	s := answer.Status
	if s.EvaluationError != "" && !s.Allowed {
		return false, "", fmt.Errorf("review access: %s", s.EvaluationError)
	}
	return s.Allowed && !s.Denied, s.Reason, nil
}
