package kube

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// A leader that has died without a word is followed by another within leaseTime.
const (
	leaseTime  = 15 * time.Second
	renewTime  = 10 * time.Second
	retryEvery = 2 * time.Second
)

// Lead runs work while this process, called id, is the one that holds a Lease, and
// again when it holds it again, until ctx ends. The context of work ends when the
// Lease is lost.
func Lead(ctx context.Context, c Client, namespace, name, id string, work func(ctx context.Context)) error {
	for ctx.Err() == nil {
		began, ended := make(chan struct{}), make(chan struct{})
		e, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Client: c.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: id},
			},
			LeaseDuration: leaseTime, RenewDeadline: renewTime, RetryPeriod: retryEvery, ReleaseOnCancel: true, Name: name,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					close(began)
					defer close(ended)
					if ctx.Err() == nil { // else nobody waits for it any more
						work(ctx)
					}
				},
				OnStoppedLeading: func() {},
			},
		})
		if err != nil {
			return fmt.Errorf("hold Lease %s/%s: %w", namespace, name, err)
		}
		leading, stop := context.WithCancel(ctx)
		e.Run(leading)
		stop()
		select {
		case <-began:
			<-ended
		default:
		}
	}
	return nil
}
