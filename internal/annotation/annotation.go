// Package annotation names every annotation and label that tunmesh reads or
// writes. It owns the names and their documented meaning; what is done about
// them belongs to their readers.
package annotation

import "strings"

// Annotations that people write.
const (
	// Inject asks for a sidecar ("enabled") or forbids one ("disabled"), on a
	// workload's pod template or a namespace.
	Inject = "tunmesh.io/inject"

	// ConfigPrefix begins every configuration annotation.
	ConfigPrefix = "config.tunmesh.io/"

	// DefaultInboundPolicy is one of the six values in package authz.
	DefaultInboundPolicy = ConfigPrefix + "default-inbound-policy"
	// OpaquePorts is a comma-separated list of ports and ranges never parsed.
	OpaquePorts = ConfigPrefix + "opaque-ports"
	// ProxyQueues is the number of queue pairs of the pod's TUNs: "1" (default) or "2".
	ProxyQueues = ConfigPrefix + "proxy-queues"
	// ProxyMaxConnections bounds the connections that clients have open, on each
	// side of the sidecar, e.g. "16384"; see docs/limits.md.
	ProxyMaxConnections = ConfigPrefix + "proxy-max-connections"
	// AllowIPProtocols lists IP protocol numbers besides TCP, UDP and ICMP that
	// are forwarded packet by packet, e.g. "47,50". Empty: none.
	AllowIPProtocols = ConfigPrefix + "allow-ip-protocols"
	// ProxyLogLevel is debug, info, warn or error.
	ProxyLogLevel = ConfigPrefix + "proxy-log-level"
	// AccessLog asks for a line for each request to the pod: "apache" or "json".
	AccessLog = ConfigPrefix + "access-log"
	// TraceCollector is where the sidecar sends spans, by OTLP over gRPC: a name or an
	// address, and a port, DefaultCollectorPort without one. There are no spans
	// without it.
	TraceCollector = ConfigPrefix + "trace-collector"
	// TraceSampling is which share of the requests is traced of which nobody has
	// decided: "0.01" or "1%". With "0" those alone whose sender has.
	TraceSampling = ConfigPrefix + "trace-sampling"
	// ShutdownGracePeriod bounds draining, e.g. "120s".
	ShutdownGracePeriod = ConfigPrefix + "shutdown-grace-period"
	// DisableTap keeps a pod's requests from being tapped: "true" or "false".
	DisableTap = ConfigPrefix + "disable-tap"
	// AdminPort and ControlPort are not configurable here: the sidecar needs
	// no port of the pod but 4191.

	// ProxyCPURequest and its siblings set the sidecar's resources.
	ProxyCPURequest    = ConfigPrefix + "proxy-cpu-request"
	ProxyCPULimit      = ConfigPrefix + "proxy-cpu-limit"
	ProxyMemoryRequest = ConfigPrefix + "proxy-memory-request"
	ProxyMemoryLimit   = ConfigPrefix + "proxy-memory-limit"
	// ProxyImage and ImagePullPolicy name the sidecar's image.
	ProxyImage      = ConfigPrefix + "proxy-image"
	ImagePullPolicy = ConfigPrefix + "image-pull-policy"
)

// LinkerdAccessLog is Linkerd's name for AccessLog, which wins where both are set.
const LinkerdAccessLog = "config.linkerd.io/access-log"

// IsConfig reports whether an annotation is configuration of a pod's sidecar,
// which a namespace may have for its pods.
func IsConfig(key string) bool {
	return strings.HasPrefix(key, ConfigPrefix) && key != ConfigPrefix || key == LinkerdAccessLog
}

// Annotations of a Service, about the traffic to it. Linkerd's names for the same
// are read too; ours wins where both are set.
const (
	// TimeoutPrefix begins the timeouts of requests to a Service; each is a
	// duration such as "400ms", and "0" is none.
	TimeoutPrefix = "timeout.tunmesh.io/"
	// TimeoutRequest bounds a request with its response and all retries,
	// TimeoutResponse the time from the request's end to the response's,
	// TimeoutIdle the time in which nothing moves in either direction.
	TimeoutRequest  = TimeoutPrefix + "request"
	TimeoutResponse = TimeoutPrefix + "response"
	TimeoutIdle     = TimeoutPrefix + "idle"

	// RetryPrefix begins what says which requests to a Service are sent again.
	// Any of them but RetryBudget turns retries on.
	RetryPrefix = "retry.tunmesh.io/"
	// RetryHTTP lists statuses: "5xx", "gateway-error" (502 to 504), "503", "500-504".
	RetryHTTP = RetryPrefix + "http"
	// RetryGRPC lists gRPC statuses: "cancelled", "deadline-exceeded", "internal",
	// "resource-exhausted", "unavailable".
	RetryGRPC = RetryPrefix + "grpc"
	// RetryLimit is how often one request is sent again, 1 to 100; RetryTimeout how
	// long a try may go without a response while another one is left.
	RetryLimit   = RetryPrefix + "limit"
	RetryTimeout = RetryPrefix + "timeout"
	// RetryBudget bounds retries by a share of all requests, "20%", or "none".
	RetryBudget = RetryPrefix + "budget"

	// BalancerPrefix begins what says how the endpoints of a Service are chosen.
	BalancerPrefix = "balancer.tunmesh.io/"
	// FailureAccrual turns circuit breakers on: "consecutive" counts failures in a
	// row, "unified" watches the rate of successes besides.
	FailureAccrual = BalancerPrefix + "failure-accrual"
	// AccrualMaxFailures is how many failures in a row trip a breaker;
	// AccrualMinPenalty, AccrualMaxPenalty and AccrualJitterRatio for how long.
	AccrualMaxFailures = FailureAccrual + "-consecutive-max-failures"
	AccrualMinPenalty  = FailureAccrual + "-consecutive-min-penalty"
	AccrualMaxPenalty  = FailureAccrual + "-consecutive-max-penalty"
	AccrualJitterRatio = FailureAccrual + "-consecutive-jitter-ratio"
	// AccrualThreshold is the rate of successes below which a breaker trips,
	// AccrualWindow the time that it is taken over, AccrualMinRequests how many
	// requests it needs.
	AccrualThreshold   = FailureAccrual + "-success-rate-threshold"
	AccrualWindow      = FailureAccrual + "-success-rate-window"
	AccrualMinRequests = FailureAccrual + "-success-rate-min-requests"
	// AccrualRetryAfter makes a breaker honour Retry-After: "true" or "false".
	AccrualRetryAfter = FailureAccrual + "-honor-retry-after"
	// PenalizeFailures makes the balancer avoid endpoints that fail or have too much
	// to do: "true" or "false". BiaserPenalty is the response time that such an
	// answer counts as, BiaserMaxRetryAfter the most that its Retry-After does.
	PenalizeFailures    = BalancerPrefix + "penalize-failures"
	BiaserPenalty       = BalancerPrefix + "load-biaser-penalty"
	BiaserMaxRetryAfter = BalancerPrefix + "load-biaser-max-retry-after"
)

// Annotations that tunmesh writes.
const (
	// Injected is written on the pod by the injector alone, with the version
	// that injected it; the CNI plugin acts on it.
	Injected = "tunmesh.io/injected"
	// Inherited lists, comma-separated, the config annotations that the injector
	// copied from the namespace; uninject removes those.
	Inherited = "tunmesh.io/inherited"
)

// Names of what the injector adds.
const (
	SidecarContainer = "mesh-proxy"
	TokenVolume      = "tunmesh-identity-token"
	TokenMountPath   = "/var/run/secrets/tunmesh.io"
	TokenFile        = "token"
	TokenAudience    = "identity.tunmesh.io"
	ProxyUID         = 2102
	AdminPort        = 4191
	// ExitOutside is the code that the sidecar ends with in a pod whose network was
	// set up without the mesh's CNI plugin.
	ExitOutside = 3
)
