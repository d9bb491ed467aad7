package discover

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/rpc"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// renewAt is the share of a certificate's life after which it is renewed; each
// sidecar varies it by a twentieth, so that those that started together do not
// ask together.
const renewAt = 0.70

// ensureCertificate makes one over a connection without certificate, if there
// is none that the control plane would take.
func (c *Client) ensureCertificate(ctx context.Context) error {
	c.mu.Lock()
	need := c.recertify
	c.mu.Unlock()
	if c.cfg.Store.Valid() && !need {
		return nil
	}
	nc, err := c.connect(ctx, false)
	if err != nil {
		return err
	}
	conn := rpc.New(nc, c.rpcConfig())
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- conn.Run(ctx) }()
	err = c.certify(ctx, conn)
	cancel()
	<-ended
	return err
}

// certify makes a key, has it certified, and puts both in force.
func (c *Client) certify(ctx context.Context, conn *rpc.Conn) error {
	err := c.tryCertify(ctx, conn)
	if err != nil {
		if m := c.cfg.Metrics; m != nil {
			m.Identity.Failed()
		}
		return fmt.Errorf("get a certificate: %w", err)
	}
	c.mu.Lock()
	c.recertify = false
	c.issued = c.cfg.Now()
	c.mu.Unlock()
	select { // a renewal that was asked for meanwhile is this one
	case <-c.renewNow:
	default:
	}
	if m := c.cfg.Metrics; m != nil {
		m.Identity.Refreshed(c.cfg.Now(), c.cfg.Store.NotAfter())
	}
	id, _ := c.cfg.Store.ID()
	c.cfg.Logger.Info("certificate issued", "identity", id.String(), "not_after", c.cfg.Store.NotAfter())
	return nil
}

func (c *Client) tryCertify(ctx context.Context, conn *rpc.Conn) error {
	token, err := readToken(c.cfg.TokenPath)
	if err != nil {
		return err
	}
	id, err := subject(token, c.cfg.ControlID.TrustDomain)
	if err != nil {
		return err
	}
	key, err := mtls.NewKey()
	if err != nil {
		return err
	}
	csr, err := mtls.SigningRequest(key, id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
	defer cancel()
	ended := c.count(wire.MethodCertify)
	answer, err := conn.Call(ctx, wire.MethodCertify, (&wire.CertifyRequest{CSR: csr, Token: token}).Append(nil))
	ended(err)
	if err != nil {
		return err
	}
	var resp wire.CertifyResponse
	if err := resp.Decode(answer); err != nil {
		return err
	}
	if len(resp.Anchors) == 0 {
		return fmt.Errorf("the answer has no trust anchors")
	}
	if err := c.cfg.Store.Install(id, resp.Anchors, &mtls.Certificate{Chain: resp.Chain, Key: key}); err != nil {
		return err
	}
	c.generation.Store(resp.Generation)
	return nil
}

// renewer renews the certificate in time, or when the control plane has a new
// issuer, and ends the connection after it.
func (c *Client) renewer(ctx context.Context, conn *rpc.Conn, end context.CancelCauseFunc) {
	for fails := 0; ; {
		wait := c.untilRenewal()
		if fails > 0 {
			wait = pause(fails)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-c.renewNow:
			timer.Stop()
			if !sleep(ctx, c.spread()) {
				return
			}
			if c.wanted.Load() == c.generation.Load() {
				continue // taken back, or done meanwhile
			}
		}
		if err := c.certify(ctx, conn); err != nil {
			if ctx.Err() != nil {
				return
			}
			fails++
			c.cfg.Logger.Warn("certificate not renewed, trying again", "err", err, "expires", c.cfg.Store.NotAfter())
			continue
		}
		end(errRenewed)
		return
	}
}

// spread is the wait before a renewal that was asked for: random, and not soon
// after the last one, lest replicas that disagree about the generation for a
// while make us renew with every word.
func (c *Client) spread() time.Duration {
	c.mu.Lock()
	since := c.cfg.Now().Sub(c.issued)
	c.mu.Unlock()
	return max(0, 2*c.cfg.RenewJitter-since) + rand.N(c.cfg.RenewJitter) //nolint:gosec // not a secret
}

func (c *Client) untilRenewal() time.Duration {
	left := c.cfg.Store.Left(renewAt)
	return max(0, left-time.Duration(rand.Int64N(int64(left/20+1)))) //nolint:gosec // not a secret
}

// takeTrust is the trust watch's.
func (c *Client) takeTrust(p []byte, _ bool) error {
	var m wire.TrustBundle
	if err := m.Decode(p); err != nil {
		return err
	}
	if len(m.Anchors) == 0 {
		return fmt.Errorf("a bundle without trust anchors")
	}
	if err := c.cfg.Store.Update(m.Anchors, nil); err != nil {
		return err
	}
	c.wanted.Store(m.Generation)
	if m.Generation != c.generation.Load() {
		select {
		case c.renewNow <- struct{}{}:
		default:
		}
	}
	return nil
}
