package meshed

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Where the nodes have their CNI configuration and plugins.
const (
	NetDir = "/etc/cni/net.d"
	BinDir = "/opt/cni/bin"
)

// Folders is every file in the CNI folders of all nodes, by node and path: its mode
// with its text, or the sum of a program.
func (m *Mesh) Folders(tb testing.TB) map[string]string {
	tb.Helper()
	out := map[string]string{}
	for _, n := range m.Nodes() {
		for _, dir := range []string{NetDir, BinDir} {
			root := n.Disk(dir)
			err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				info, err := d.Info()
				if err != nil {
					return err
				}
				raw, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				text := string(raw)
				if dir == BinDir {
					text = fmt.Sprintf("%x", sha256.Sum256(raw))
				}
				out[n.Name()+":"+filepath.Join(dir, strings.TrimPrefix(path, root))] = info.Mode().String() + " " + text
				return nil
			})
			if err != nil {
				tb.Fatal(err)
			}
		}
	}
	return out
}
