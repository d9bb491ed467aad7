package kube

import (
	"fmt"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// protobuf objects cost the API server and us a third of what JSON ones do.
const contentTypes = "application/vnd.kubernetes.protobuf"

// Client is a client of the API server, as NewClient makes it.
type Client = kubernetes.Interface

// NewClient returns a client of the API server. kubeconfig is the path of a file
// that says how to reach it; "" is how a pod does. agent is told to the server.
func NewClient(kubeconfig, agent string) (Client, error) {
	cfg, err := config(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("configure the Kubernetes client: %w", err)
	}
	cfg.UserAgent = agent
	cfg.ContentType = contentTypes
	cfg.AcceptContentTypes = contentTypes + ",application/json"
	// The API server's own fairness bounds us; those who call it here are bounded
	// each by itself. A thousand sidecars that come at once are no reason to wait.
	cfg.QPS = -1
	cfg.Timeout = 0 // of a request, and a watch is one
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make the Kubernetes client: %w", err)
	}
	return client, nil
}

func config(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		return clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	return rest.InClusterConfig()
}

// callTimeout bounds every call that is no watch.
const callTimeout = 10 * time.Second
