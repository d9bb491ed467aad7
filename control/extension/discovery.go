package extension

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// discovery is what says which APIs there are: how kubectl, the API server's own
// check that we live, and garbage collectors find out. nil for other paths.
func discovery(path string) any {
	version := metav1.GroupVersionForDiscovery{GroupVersion: Group + "/" + Version, Version: Version}
	group := metav1.APIGroup{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"},
		Name:     Group, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version,
	}
	switch path {
	case "/apis":
		return metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{group}}
	case "/apis/" + Group:
		return group
	case Base:
		return metav1.APIResourceList{
			TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
			GroupVersion: version.GroupVersion, APIResources: apiResources(),
		}
	}
	return nil
}

func apiResources() []metav1.APIResource {
	list := []metav1.APIResource{
		{Name: health, Kind: "Health", Verbs: metav1.Verbs{"get"}},
		{Name: consoleFiles, Kind: "Console", Verbs: metav1.Verbs{"get"}},
		{Name: why, Kind: "Why", Verbs: metav1.Verbs{"create"}},
		{Name: prometheus + "/" + subPrometheus, Kind: "PromQL", Verbs: metav1.Verbs{"get", "create"}},
	}
	for _, r := range slices.Sorted(maps.Keys(resources())) {
		list = append(list,
			metav1.APIResource{Name: r + "/" + subStat, Namespaced: true, Kind: "Stat", Verbs: metav1.Verbs{"get"}},
			metav1.APIResource{Name: r + "/" + subSeries, Namespaced: true, Kind: "Series", Verbs: metav1.Verbs{"get"}},
			metav1.APIResource{Name: r + "/" + subEdges, Namespaced: true, Kind: "Edges", Verbs: metav1.Verbs{"get"}},
			metav1.APIResource{Name: r + "/" + subRoutes, Namespaced: true, Kind: "Routes", Verbs: metav1.Verbs{"get"}},
			metav1.APIResource{Name: r + "/" + subTap, Namespaced: true, Kind: "Tap", Verbs: metav1.Verbs{"get", "watch"}})
	}
	return append(list,
		metav1.APIResource{Name: "pods/" + subPcap, Namespaced: true, Kind: "Pcap", Verbs: metav1.Verbs{"watch"}},
		metav1.APIResource{Name: "pods/" + subConns, Namespaced: true, Kind: "Connections", Verbs: metav1.Verbs{"get"}},
		metav1.APIResource{Name: "services/" + subEndpoints, Namespaced: true, Kind: "Endpoints", Verbs: metav1.Verbs{"get"}},
		metav1.APIResource{Name: "services/" + subPolicy, Namespaced: true, Kind: "Policy", Verbs: metav1.Verbs{"get"}},
		metav1.APIResource{Name: "pods/" + subPolicy, Namespaced: true, Kind: "Policy", Verbs: metav1.Verbs{"get"}})
}
