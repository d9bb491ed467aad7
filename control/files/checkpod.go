package files

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// pod checks a pod's spec: s is at the spec.
func (c *checker) pod(t Template, s spot) {
	ns := t.Object.GetNamespace()
	if sa := t.Spec.ServiceAccountName; sa != DefaultServiceAccount && !c.index.serviceAccounts[ns+"/"+sa] {
		s.add("serviceAccountName", "there is no ServiceAccount %q in namespace %s: add one", sa, ns)
	}
	if len(t.Spec.Containers) == 0 {
		s.add("containers", "missing: a pod has at least one container")
	}
	volumes := map[string]bool{}
	for i := range t.Spec.Volumes {
		v := &t.Spec.Volumes[i]
		at := s.in("volumes[%d]", i)
		at.each("name", validation.IsDNS1123Label(v.Name))
		if volumes[v.Name] {
			at.add("name", "%q is another volume's name too", v.Name)
		}
		volumes[v.Name] = true
		c.volume(v, ns, at)
	}
	names := map[string]bool{}
	for _, l := range []struct {
		field string
		list  []corev1.Container
	}{{"initContainers", t.Spec.InitContainers}, {"containers", t.Spec.Containers}} {
		for i := range l.list {
			ct := &l.list[i]
			at := s.in("%s[%d]", l.field, i)
			at.each("name", validation.IsDNS1123Label(ct.Name))
			if names[ct.Name] {
				at.add("name", "%q is another container's name too", ct.Name)
			}
			names[ct.Name] = true
			c.container(ct, ns, volumes, at)
		}
	}
}

// container checks one container: s is at the container.
func (c *checker) container(ct *corev1.Container, ns string, volumes map[string]bool, s spot) {
	if len(ct.Command) == 0 && !isSidecar(ct) {
		s.add("command", "missing: images are not pulled here, so what image %q would run must be said: add command: [PROGRAM] (and args), a program of this machine", ct.Image)
	}
	ports := map[string]bool{}
	for i, p := range ct.Ports {
		at := s.in("ports[%d]", i)
		at.port("containerPort", p.ContainerPort)
		at.transport("protocol", p.Protocol)
		if p.Name != "" {
			at.each("name", validation.IsValidPortName(p.Name))
			if ports[p.Name] {
				at.add("name", "%q is another port's name too", p.Name)
			}
			ports[p.Name] = true
		}
	}
	for i, e := range ct.Env {
		c.env(e, ns, s.in("env[%d]", i))
	}
	for i, e := range ct.EnvFrom {
		at := s.in("envFrom[%d]", i)
		if r := e.ConfigMapRef; r != nil {
			c.configMap(at.in("configMapRef"), ns, r.Name, "", r.Optional)
		}
		if r := e.SecretRef; r != nil {
			c.secret(at.in("secretRef"), ns, r.Name, "", r.Optional)
		}
	}
	for i, m := range ct.VolumeMounts {
		at := s.in("volumeMounts[%d]", i)
		if !volumes[m.Name] {
			at.add("name", "the pod has no volume %q", m.Name)
		}
		if !strings.HasPrefix(m.MountPath, "/") {
			at.add("mountPath", "%q is not an absolute path", m.MountPath)
		}
	}
	probe(ct, ct.StartupProbe, s.in("startupProbe"))
	probe(ct, ct.ReadinessProbe, s.in("readinessProbe"))
	probe(ct, ct.LivenessProbe, s.in("livenessProbe"))
}

func (c *checker) env(e corev1.EnvVar, ns string, s spot) {
	s.each("name", validation.IsEnvVarName(e.Name))
	f := e.ValueFrom
	if f == nil {
		return
	}
	if e.Value != "" {
		s.add("valueFrom", "value is set too: write one of them")
	}
	switch {
	case f.ConfigMapKeyRef != nil:
		r := f.ConfigMapKeyRef
		c.configMap(s.in("valueFrom.configMapKeyRef"), ns, r.Name, r.Key, r.Optional)
	case f.SecretKeyRef != nil:
		r := f.SecretKeyRef
		c.secret(s.in("valueFrom.secretKeyRef"), ns, r.Name, r.Key, r.Optional)
	case f.FieldRef != nil:
		if !knownField(f.FieldRef.FieldPath) {
			s.add("valueFrom.fieldRef.fieldPath", "%q is not a field that pods can read: use %s", f.FieldRef.FieldPath, strings.Join(podFields(), ", "))
		}
	case f.ResourceFieldRef != nil:
		if !slices.Contains([]string{"limits.cpu", "limits.memory", "requests.cpu", "requests.memory"}, f.ResourceFieldRef.Resource) {
			s.add("valueFrom.resourceFieldRef.resource", "%q is not known: use limits.cpu, limits.memory, requests.cpu or requests.memory", f.ResourceFieldRef.Resource)
		}
	default:
		s.add("valueFrom", "says no source: use configMapKeyRef, secretKeyRef, fieldRef or resourceFieldRef")
	}
}

// podFields are the paths of fieldRef.
func podFields() []string {
	return []string{
		"metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels['KEY']", "metadata.annotations['KEY']",
		"spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
}

func knownField(path string) bool {
	for _, f := range []string{"metadata.labels['", "metadata.annotations['"} {
		if rest, ok := strings.CutPrefix(path, f); ok {
			return len(rest) > 2 && strings.HasSuffix(rest, "']")
		}
	}
	return !strings.Contains(path, "[") && slices.Contains(podFields(), path)
}

// volume checks where a volume's files come from.
func (c *checker) volume(v *corev1.Volume, ns string, s spot) {
	switch {
	case v.EmptyDir != nil:
	case v.DownwardAPI != nil:
		downward(v.DownwardAPI.Items, s.in("downwardAPI"))
	case v.ConfigMap != nil:
		c.configMap(s.in("configMap"), ns, v.ConfigMap.Name, "", v.ConfigMap.Optional)
		c.items(s.in("configMap"), v.ConfigMap.Items, c.configMapKeys(ns, v.ConfigMap.Name), v.ConfigMap.Optional)
	case v.Secret != nil:
		c.secret(s.in("secret"), ns, v.Secret.SecretName, "", v.Secret.Optional)
		c.items(s.in("secret"), v.Secret.Items, c.secretKeys(ns, v.Secret.SecretName), v.Secret.Optional)
	case v.Projected != nil:
		for i, src := range v.Projected.Sources {
			at := s.in("projected.sources[%d]", i)
			switch {
			case src.ConfigMap != nil:
				c.configMap(at.in("configMap"), ns, src.ConfigMap.Name, "", src.ConfigMap.Optional)
				c.items(at.in("configMap"), src.ConfigMap.Items, c.configMapKeys(ns, src.ConfigMap.Name), src.ConfigMap.Optional)
			case src.Secret != nil:
				c.secret(at.in("secret"), ns, src.Secret.Name, "", src.Secret.Optional)
				c.items(at.in("secret"), src.Secret.Items, c.secretKeys(ns, src.Secret.Name), src.Secret.Optional)
			case src.DownwardAPI != nil:
				downward(src.DownwardAPI.Items, at.in("downwardAPI"))
			case src.ServiceAccountToken != nil:
			default:
				at.add("", "this source is not known here: use configMap, secret, downwardAPI or serviceAccountToken")
			}
		}
	default:
		s.add("", "the type of volume %q is not known here: use emptyDir, configMap, secret, downwardAPI or projected", v.Name)
	}
}

func downward(items []corev1.DownwardAPIVolumeFile, s spot) {
	for i, f := range items {
		if f.FieldRef != nil && !knownField(f.FieldRef.FieldPath) && f.FieldRef.FieldPath != "metadata.labels" && f.FieldRef.FieldPath != "metadata.annotations" {
			s.add(fmt.Sprintf("items[%d].fieldRef.fieldPath", i), "%q is not a field that pods can read", f.FieldRef.FieldPath)
		}
	}
}

// configMap checks a reference to a ConfigMap, and to a key of it unless "".
func (c *checker) configMap(s spot, ns, name, key string, optional *bool) {
	m := c.index.configMaps[ns+"/"+name]
	c.reference(s, "ConfigMap", ns, name, key, m != nil, c.configMapKeys(ns, name), optional)
}

func (c *checker) secret(s spot, ns, name, key string, optional *bool) {
	m := c.index.secrets[ns+"/"+name]
	c.reference(s, "Secret", ns, name, key, m != nil, c.secretKeys(ns, name), optional)
}

func (c *checker) reference(s spot, kind, ns, name, key string, exists bool, keys map[string]bool, optional *bool) {
	switch {
	case optional != nil && *optional:
	case !exists:
		s.add("name", "there is no %s %q in namespace %s: add one, or set optional: true", kind, name, ns)
	case key != "" && !keys[key]:
		s.add("key", "%s %s/%s has no key %q", kind, ns, name, key)
	}
}

func (c *checker) items(s spot, items []corev1.KeyToPath, keys map[string]bool, optional *bool) {
	if optional != nil && *optional || keys == nil {
		return
	}
	for i, it := range items {
		if !keys[it.Key] {
			s.add(fmt.Sprintf("items[%d].key", i), "there is no key %q", it.Key)
		}
	}
}

// configMapKeys lists a ConfigMap's keys, nil when there is no such map.
func (c *checker) configMapKeys(ns, name string) map[string]bool {
	m := c.index.configMaps[ns+"/"+name]
	if m == nil {
		return nil
	}
	keys := map[string]bool{}
	for k := range m.Data {
		keys[k] = true
	}
	for k := range m.BinaryData {
		keys[k] = true
	}
	return keys
}

func (c *checker) secretKeys(ns, name string) map[string]bool {
	m := c.index.secrets[ns+"/"+name]
	if m == nil {
		return nil
	}
	keys := map[string]bool{}
	for k := range m.Data {
		keys[k] = true
	}
	return keys
}

// probe checks that a probe says how, and that a port that it names is there.
func probe(ct *corev1.Container, p *corev1.Probe, s spot) {
	if p == nil {
		return
	}
	switch {
	case p.HTTPGet != nil:
		s.in("httpGet").probePort(ct, p.HTTPGet.Port)
	case p.TCPSocket != nil:
		s.in("tcpSocket").probePort(ct, p.TCPSocket.Port)
	case p.GRPC != nil:
		s.port("grpc.port", p.GRPC.Port)
	case p.Exec != nil:
		if len(p.Exec.Command) == 0 {
			s.add("exec.command", "missing: it says what to run")
		}
	default:
		s.add("", "says no way to probe: use httpGet, tcpSocket, grpc or exec")
	}
}

func (s spot) probePort(ct *corev1.Container, port intstr.IntOrString) {
	if port.Type == intstr.Int {
		s.port("port", port.IntVal)
		return
	}
	if !slices.ContainsFunc(ct.Ports, func(p corev1.ContainerPort) bool { return p.Name == port.StrVal }) {
		s.add("port", "container %q has no port named %q", ct.Name, port.StrVal)
	}
}
