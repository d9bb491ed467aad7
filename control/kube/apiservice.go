package kube

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// APIService is the registration of an aggregated API. It is read and written as
// plain JSON: a client of its own for one field of one object would be larger
// than the rest of this package.
type APIService struct {
	client Client
	name   string
}

// NewAPIService returns the one of a name (VERSION.GROUP).
func NewAPIService(c Client, name string) *APIService { return &APIService{client: c, name: name} }

func (a *APIService) path() string { return "/apis/apiregistration.k8s.io/v1/apiservices/" + a.name }

// Bundle reads whom the API server believes to be the API, PEM; exists is unset
// where nothing is registered.
func (a *APIService) Bundle(ctx context.Context) (bundle []byte, exists bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	raw, err := a.client.Discovery().RESTClient().Get().AbsPath(a.path()).SetHeader("Accept", "application/json").Do(ctx).Raw()
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("get APIService %s: %w", a.name, err)
	}
	var o struct {
		Spec struct {
			CABundle []byte `json:"caBundle"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, false, fmt.Errorf("get APIService %s: %w", a.name, err)
	}
	return o.Spec.CABundle, true, nil
}

// SaveBundle has the API server believe a bundle, PEM.
func (a *APIService) SaveBundle(ctx context.Context, bundle []byte) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"caBundle": bundle}})
	if err != nil {
		return fmt.Errorf("patch APIService %s: %w", a.name, err)
	}
	err = a.client.Discovery().RESTClient().Patch(types.MergePatchType).AbsPath(a.path()).
		SetHeader("Accept", "application/json").Body(patch).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("patch APIService %s: %w", a.name, err)
	}
	return nil
}
