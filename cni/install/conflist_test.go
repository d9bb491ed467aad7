package install_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/tunmesh/tunmesh/cni/install"
)

var update = flag.Bool("update", false, "write the golden files")

const meshType = "mesh-cni"

var (
	entry = []byte(`{"type":"mesh-cni","capabilities":{"io.kubernetes.cri.pod-annotations":true},"journal":"/etc/cni/net.d/tunmesh.journal"}`)
	known = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}
)

// shapes are the files as CNIs write them.
func shapes(tb testing.TB) []string {
	tb.Helper()
	lists, _ := filepath.Glob("testdata/*.conflist")
	singles, _ := filepath.Glob("testdata/*.conf")
	files := slices.Concat(lists, singles)
	if len(files) < 7 {
		tb.Fatalf("only %d shapes", len(files))
	}
	return files
}

// The shapes that CNIs write, and what becomes of each.
func TestShapes(t *testing.T) {
	files := shapes(t)
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			list := before
			if strings.HasSuffix(path, ".conf") {
				if list, err = install.Single(before); err != nil {
					t.Fatal(err)
				}
			}
			after, err := install.Append(list, entry, known)
			if err != nil {
				t.Fatal(err)
			}
			golden := path + ".golden"
			if *update {
				if err := os.WriteFile(golden, after, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(after)); d != "" {
				t.Error(d)
			}
			runtimeReads(t, before, list, after)

			if again, err := install.Append(after, entry, known); err != nil || !bytes.Equal(again, after) {
				t.Errorf("appended twice: %v\n%s", err, again)
			}
			undone, err := install.Remove(after, meshType)
			if err != nil || !bytes.Equal(undone, list) {
				t.Errorf("undone: %v\n%s", err, cmp.Diff(string(list), string(undone)))
			}
		})
	}
}

// runtimeReads makes sure that the library of container runtimes finds the
// plugins that were there as they were, then ours.
func runtimeReads(t *testing.T, original, list, edited []byte) {
	t.Helper()
	was, err := libcni.NetworkConfFromBytes(list)
	if err != nil {
		t.Fatal(err)
	}
	is, err := libcni.NetworkConfFromBytes(edited)
	if err != nil {
		t.Fatal(err)
	}
	if is.Name != was.Name || is.CNIVersion != was.CNIVersion || is.DisableCheck != was.DisableCheck || len(is.Plugins) != len(was.Plugins)+1 {
		t.Fatalf("was %+v, is %+v", was, is)
	}
	for i, p := range was.Plugins {
		if !bytes.Equal(p.Bytes, is.Plugins[i].Bytes) {
			t.Errorf("plugin %d was %s, is %s", i, p.Bytes, is.Plugins[i].Bytes)
		}
	}
	if last := is.Plugins[len(was.Plugins)].Network; last.Type != meshType || !last.Capabilities["io.kubernetes.cri.pod-annotations"] {
		t.Errorf("last is %+v", last)
	}
	if single, err := libcni.NetworkPluginConfFromBytes(original); err == nil && single.Network.Type != "" {
		asRuntime, err := libcni.ConfListFromConf(single)
		if err != nil || asRuntime.Name != was.Name || asRuntime.CNIVersion != was.CNIVersion || len(was.Plugins) != 1 {
			t.Errorf("a runtime makes %+v of it (%v), we %+v", asRuntime, err, was)
		}
	}
}

func TestAppendPutsOursLastAndOnce(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"in the middle": {`{"cniVersion":"1.0.0","plugins":[{"type":"a"},{"type":"mesh-cni","old":1},{"type":"b"}]}`, `a b mesh-cni`},
		"first":         {`{"cniVersion":"1.0.0","plugins":[ {"type":"mesh-cni"} , {"type":"b"} ]}`, `b mesh-cni`},
		"twice":         {`{"cniVersion":"1.0.0","plugins":[{"type":"a"},{"type":"mesh-cni"},{"type":"mesh-cni"}]}`, `a mesh-cni`},
		"another entry": {`{"cniVersion":"1.0.0","plugins":[{"type":"a"},{"type":"mesh-cni","journal":"/old"}]}`, `a mesh-cni`},
		"odd space":     {"{\"cniVersion\":\"1.0.0\",\"plugins\"\n:\t[\r\n{\"type\":\"a\"}\n,\n{\"type\":\"b\"}]}", `a b mesh-cni`},
		"other plugins": {`{"meta":{"plugins":["x"]},"cniVersion":"1.0.0","plugins":[{"type":"a","plugins":[1]}]}`, `a mesh-cni`},
	} {
		out, err := install.Append([]byte(c.in), entry, known)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := types(t, out); got != c.want {
			t.Errorf("%s: %s, want %s: %s", name, got, c.want, out)
		}
		if !bytes.Contains(out, []byte(`"/etc/cni/net.d/tunmesh.journal"`)) {
			t.Errorf("%s: not the entry of now: %s", name, out)
		}
	}
}

func types(t *testing.T, conf []byte) string {
	t.Helper()
	var l struct{ Plugins []struct{ Type string } }
	if err := json.Unmarshal(conf, &l); err != nil {
		t.Fatalf("%v: %s", err, conf)
	}
	var out []string
	for _, p := range l.Plugins {
		out = append(out, p.Type)
	}
	return strings.Join(out, " ")
}

// What a runtime could not use, or would call us for in a way that we do not
// know, is not edited.
func TestAppendLeavesAlone(t *testing.T) {
	for in, want := range map[string]string{
		``:   "no JSON object",
		`[]`: "no JSON object",
		`{"cniVersion":"1.0.0","plugins":[{"type":"a"}]`:                                  "no JSON object",
		`{"cniVersion":"1.0.0"}`:                                                          `no "plugins"`,
		`{"cniVersion":"1.0.0","plugins":[]}`:                                             `no "plugins"`,
		`{"cniVersion":"1.0.0","plugins":{"type":"a"}}`:                                   "are no list",
		`{"cniVersion":"1.0.0","plugins":[{"type":"a"},7]}`:                               "plugin 2 has no type",
		`{"cniVersion":"1.0.0","plugins":[{"type":"a"}],"plugins":[]}`:                    "twice",
		`{"cniVersion":"1.0.0","plugins":[{"type":"mesh-cni","old":true}]}`:               `no "plugins"`,
		`{"plugins":[{"type":"a"}]}`:                                                      "no cniVersion",
		`{"cniVersion":"0.2.0","plugins":[{"type":"a"}]}`:                                 "is 0.2.0",
		`{"cniVersion":"9.0.0","plugins":[{"type":"a"}]}`:                                 "is 9.0.0",
		`{"cniVersion":"1.0.0","cniVersions":["1.0.0","1.2.0"],"plugins":[{"type":"a"}]}`: "is 1.2.0",
		`{"cniVersion":7,"plugins":[{"type":"a"}]}`:                                       "cniVersion is no text",
		`{"cniVersion":"new","plugins":[{"type":"a"}]}`:                                   `"new" is none`,
	} {
		if out, err := install.Append([]byte(in), entry, known); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v (%s), want %q", in, err, out, want)
		}
	}
	if _, err := install.Append([]byte(`{"cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0"],"plugins":[{"type":"a"}]}`), entry, known); err != nil {
		t.Error(err)
	}
	if _, err := install.Single([]byte(`{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}`)); err == nil {
		t.Error("a list in a .conf, which no runtime uses, was taken")
	}
}

// FuzzEdit: whatever is appended to stays valid, keeps what it had, and gives
// every byte back.
func FuzzEdit(f *testing.F) {
	for _, path := range shapes(f) {
		raw, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"cniVersion":"1.0.0","plugins":[ {"type":"mesh-cni"} , {"type":"b"} ]}`))
	f.Add([]byte("{\"cniVersion\":\"1.0.0\",\"plugins\"\n:\t[\r\n{\"type\":\"a\"}\n,\n{\"type\":\"b\"}]}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if list, err := install.Single(in); err == nil {
			in = list
		}
		out, err := install.Append(in, entry, known)
		if err != nil {
			return
		}
		had, err := install.Remove(in, meshType)
		if err != nil {
			t.Fatalf("remove from what was appended to: %v", err)
		}
		back, err := install.Remove(out, meshType)
		if err != nil || (!bytes.Equal(back, had) && !bytes.Equal(in, out)) {
			t.Fatalf("not given back (%v):\n%q\n%q", err, had, back)
		}
		if last, err := install.Chains(out, meshType); err != nil || !last {
			t.Fatalf("not last: %v", err)
		}
		if again, err := install.Append(out, entry, known); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("appended twice: %v %q", err, again)
		}
		if was, err := libcni.NetworkConfFromBytes(had); err == nil {
			is, err := libcni.NetworkConfFromBytes(out)
			if err != nil || len(is.Plugins) != len(was.Plugins)+1 {
				t.Fatalf("a runtime does not read it: %v", err)
			}
		}
	})
}
