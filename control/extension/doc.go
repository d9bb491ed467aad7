// Package extension is the API by which people ask the mesh in a cluster: group
// tunmesh.io's view, aggregated behind the API server. It owns who may ask
// (the API server's word for who it is, a SubjectAccessReview for what he may),
// and how a question and its answer look in HTTP. It refuses to know how an
// answer is found (Backend) and how the cluster is asked (Authorizer).
//
//	GET  …/namespaces/NS/RESOURCE/NAME/stat?window=60&to=RESOURCE/NS/NAME&from=…&labelSelector=…
//	GET  …/namespaces/NS/RESOURCE/NAME/series?window=3600&step=60&to=…&from=…&labelSelector=…
//	POST …/watch/namespaces/NS/RESOURCE/NAME/tap?labelSelector=…   (a query.TapRequest)
//	POST …/watch/namespaces/NS/pods/NAME/pcap                       (a query.CaptureRequest)
//	GET  …/namespaces/NS/pods/NAME/connections?limit=100
//	GET  …/namespaces/NS/services/NAME/endpoints?port=80
//	GET  …/namespaces/NS/pods/NAME/policy?port=80                    (or services)
//	GET  …/namespaces/NS/RESOURCE/NAME/edges?window=60&labelSelector=…
//	GET  …/namespaces/NS/RESOURCE/NAME/routes?direction=inbound&window=60&labelSelector=… (or outbound)
//	GET  …/namespaces/NS/RESOURCE/NAME/tap?labelSelector=…          (which pods can be tapped)
//	POST …/why                                                      (a query.WhyRequest)
//	GET  …/health
//	GET  …/console/FILE                                              (the page's files)
//	GET  …/prometheus/api/v1/{query,query_range,series,labels,label/NAME/values,metadata}   (or POST)
//
// NAME "-" is all of a namespace, NS "-" all namespaces. The paths are such that
// the API server reads verb, namespace, resource, name and subresource from them
// as it does for its own, so RBAC rules are written as for "pods/log"; and what
// begins with watch may last for as long as somebody watches. PromQL is about all
// namespaces at once, so it has a right of its own, get of prometheus/v1.
//
// Who cannot come through the API server, such as Grafana, shows a token of its
// ServiceAccount, and has the same rights with it.
//
// A local mesh serves the same on a unix socket that root alone may open
// (Config.Local).
package extension
