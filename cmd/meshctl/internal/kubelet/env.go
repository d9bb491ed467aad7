package kubelet

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
	"github.com/tunmesh/tunmesh/control/files"
)

// defaultPath is what containers search for programs.
const defaultPath = sandbox.BinDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment computes a container's variables, in the order of the manifest:
// later ones win and may refer to earlier ones as $(NAME).
func environment(p *corev1.Pod, c *corev1.Container, set *files.Set) ([]string, error) {
	vars := map[string]string{"PATH": defaultPath, "HOME": "/tmp", "HOSTNAME": p.Spec.Hostname}
	if vars["HOSTNAME"] == "" {
		vars["HOSTNAME"] = p.Name
	}
	for _, from := range c.EnvFrom {
		if err := envFrom(vars, p.Namespace, from, set); err != nil {
			return nil, err
		}
	}
	for _, e := range c.Env {
		v, ok, err := value(p, c, e, set)
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", e.Name, err)
		}
		if ok {
			vars[e.Name] = expand(v, vars)
		}
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		out = append(out, k+"="+vars[k])
	}
	return out, nil
}

func envFrom(vars map[string]string, namespace string, from corev1.EnvFromSource, set *files.Set) error {
	if r := from.ConfigMapRef; r != nil {
		m := configMap(set, namespace, r.Name)
		if m == nil && !isTrue(r.Optional) {
			return fmt.Errorf("envFrom: there is no ConfigMap %q in namespace %s", r.Name, namespace)
		}
		if m != nil {
			for k, v := range m.Data {
				vars[from.Prefix+k] = v
			}
		}
	}
	if r := from.SecretRef; r != nil {
		s := secret(set, namespace, r.Name)
		if s == nil && !isTrue(r.Optional) {
			return fmt.Errorf("envFrom: there is no Secret %q in namespace %s", r.Name, namespace)
		}
		if s != nil {
			for k, v := range s.Data {
				vars[from.Prefix+k] = string(v)
			}
		}
	}
	return nil
}

// value resolves one variable; not ok when it is optional and not there.
func value(p *corev1.Pod, c *corev1.Container, e corev1.EnvVar, set *files.Set) (v string, ok bool, err error) {
	f := e.ValueFrom
	switch {
	case f == nil:
		return e.Value, true, nil
	case f.ConfigMapKeyRef != nil:
		r := f.ConfigMapKeyRef
		if m := configMap(set, p.Namespace, r.Name); m != nil {
			if v, ok := m.Data[r.Key]; ok {
				return v, true, nil
			}
		}
		return absent(r.Optional, "ConfigMap", p.Namespace, r.Name, r.Key)
	case f.SecretKeyRef != nil:
		r := f.SecretKeyRef
		if s := secret(set, p.Namespace, r.Name); s != nil {
			if v, ok := s.Data[r.Key]; ok {
				return string(v), true, nil
			}
		}
		return absent(r.Optional, "Secret", p.Namespace, r.Name, r.Key)
	case f.FieldRef != nil:
		v, err := field(p, f.FieldRef.FieldPath)
		return v, true, err
	case f.ResourceFieldRef != nil:
		v, err := resourceField(p, c, f.ResourceFieldRef)
		return v, true, err
	}
	return "", false, fmt.Errorf("no source is named")
}

func absent(optional *bool, kind, namespace, name, k string) (string, bool, error) {
	if isTrue(optional) {
		return "", false, nil
	}
	return "", false, fmt.Errorf("%s %s/%s has no key %q", kind, namespace, name, k)
}

func isTrue(b *bool) bool { return b != nil && *b }

func configMap(set *files.Set, namespace, name string) *corev1.ConfigMap {
	for _, m := range set.ConfigMaps {
		if m.Namespace == namespace && m.Name == name {
			return m
		}
	}
	return nil
}

func secret(set *files.Set, namespace, name string) *corev1.Secret {
	for _, s := range set.Secrets {
		if s.Namespace == namespace && s.Name == name {
			return s
		}
	}
	return nil
}

// field reads a path of fieldRef (the downward API).
func field(p *corev1.Pod, path string) (string, error) {
	var ips, hosts []string
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	for _, ip := range p.Status.HostIPs {
		hosts = append(hosts, ip.IP)
	}
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "metadata.labels":
		return formatMap(p.Labels), nil
	case "metadata.annotations":
		return formatMap(p.Annotations), nil
	case "spec.nodeName":
		return p.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "status.podIP":
		return p.Status.PodIP, nil
	case "status.podIPs":
		return strings.Join(ips, ","), nil
	case "status.hostIP":
		return p.Status.HostIP, nil
	case "status.hostIPs":
		return strings.Join(hosts, ","), nil
	}
	for prefix, m := range map[string]map[string]string{"metadata.labels['": p.Labels, "metadata.annotations['": p.Annotations} {
		if k, ok := strings.CutPrefix(path, prefix); ok && strings.HasSuffix(k, "']") {
			return m[strings.TrimSuffix(k, "']")], nil
		}
	}
	return "", fmt.Errorf("field %q cannot be read", path)
}

func formatMap(m map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%q\n", k, m[k])
	}
	return b.String()
}

// resourceField reads a container's request or limit, in units of its divisor.
func resourceField(p *corev1.Pod, c *corev1.Container, r *corev1.ResourceFieldSelector) (string, error) {
	if r.ContainerName != "" && r.ContainerName != c.Name {
		other := findContainer(p, r.ContainerName)
		if other == nil {
			return "", fmt.Errorf("there is no container %q", r.ContainerName)
		}
		c = other
	}
	side, name, _ := strings.Cut(r.Resource, ".")
	list := c.Resources.Limits
	if side == "requests" {
		list = c.Resources.Requests
	}
	q := list[corev1.ResourceName(name)]
	divisor := r.Divisor.MilliValue()
	if divisor == 0 {
		divisor = 1000
	}
	return fmt.Sprint((q.MilliValue() + divisor - 1) / divisor), nil
}

func findContainer(p *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// expand replaces $(NAME) by the variable where there is one; $$ is $.
func expand(s string, vars map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			name := s[i+2 : i+end]
			if v, ok := vars[name]; ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[i : i+end+1])
			}
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// command is what a container runs: its arguments with variables replaced.
func command(c *corev1.Container, env []string) []string {
	vars := map[string]string{}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		vars[k] = v
	}
	var argv []string
	for _, a := range slices.Concat(c.Command, c.Args) {
		argv = append(argv, expand(a, vars))
	}
	return argv
}
