package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/version"
)

// span is a plugin's place in the bytes of a conflist.
type span struct {
	start, end int
	// pad is the white space before it.
	pad string
	typ string
}

// chain is what is read of a conflist.
type chain struct {
	plugins  []span
	versions []string
}

// read finds the plugins of a conflist, as bytes. It is as strict as it can be
// without refusing what runtimes accept: what it does not understand is left
// alone by everybody above.
func read(conf []byte) (*chain, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(conf, &object); err != nil {
		return nil, fmt.Errorf("it is no JSON object: %w", err)
	}
	c := &chain{}
	if err := c.readVersions(object); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(conf))
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	seen := false
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		if key != "plugins" {
			var skipped json.RawMessage
			if err := dec.Decode(&skipped); err != nil {
				return nil, err
			}
			continue
		}
		if seen {
			return nil, errors.New(`it has "plugins" twice`)
		}
		seen = true
		if c.plugins, err = readPlugins(dec, conf); err != nil {
			return nil, err
		}
	}
	if len(c.plugins) == 0 {
		return nil, errors.New(`it has no "plugins"`)
	}
	return c, nil
}

func readPlugins(dec *json.Decoder, conf []byte) ([]span, error) {
	open, err := dec.Token()
	if err != nil {
		return nil, err
	}
	if open != json.Delim('[') {
		return nil, errors.New(`its "plugins" are no list`)
	}
	var out []span
	after := int(dec.InputOffset())
	for dec.More() {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, err
		}
		var plugin struct{ Type string }
		if err := json.Unmarshal(raw, &plugin); err != nil || plugin.Type == "" {
			return nil, fmt.Errorf("plugin %d has no type", len(out)+1)
		}
		end := int(dec.InputOffset())
		start := end - len(raw)
		pad := strings.TrimPrefix(strings.TrimLeft(string(conf[after:start]), " \t\r\n"), ",")
		if len(out) == 0 {
			pad = string(conf[after:start])
		}
		out = append(out, span{start: start, end: end, pad: pad, typ: plugin.Type})
		after = end
	}
	_, err = dec.Token()
	return out, err
}

func (c *chain) readVersions(object map[string]json.RawMessage) error {
	var one string
	if raw, ok := object["cniVersion"]; ok {
		if err := json.Unmarshal(raw, &one); err != nil {
			return errors.New("its cniVersion is no text")
		}
	}
	if raw, ok := object["cniVersions"]; ok {
		if err := json.Unmarshal(raw, &c.versions); err != nil {
			return errors.New("its cniVersions are no list of texts")
		}
	}
	if one != "" {
		c.versions = append(c.versions, one)
	}
	return nil
}

// speaks makes sure that a runtime calls our plugin with a version that it
// knows: one that it does not know would fail every pod of the node.
func (c *chain) speaks(known []string) error {
	newest := ""
	for _, v := range c.versions {
		if _, _, _, err := version.ParseVersion(v); err != nil {
			return fmt.Errorf("its cniVersion %q is none", v)
		}
		if newest == "" {
			newest = v
		} else if newer, err := version.GreaterThan(v, newest); err != nil || newer {
			newest = v
		}
	}
	if newest == "" {
		return errors.New("it has no cniVersion: the oldest is meant, which has no chains")
	}
	if !slices.Contains(known, newest) {
		return fmt.Errorf("its cniVersion is %s, and the mesh's plugin speaks %s", newest, strings.Join(known, ", "))
	}
	return nil
}

// typeOf an entry.
func typeOf(entry []byte) (string, error) {
	var e struct{ Type string }
	if err := json.Unmarshal(entry, &e); err != nil || e.Type == "" {
		return "", errors.New("the entry to append has no type")
	}
	return e.Type, nil
}

// Append returns conf with entry as the last of its plugins, and with no other
// plugin of entry's type; conf itself when that is how it is already. All else
// stays as it is, byte for byte. known are the CNI versions of entry's plugin.
func Append(conf, entry []byte, known []string) ([]byte, error) {
	typ, err := typeOf(entry)
	if err != nil {
		return nil, err
	}
	if c, err := read(conf); err == nil && c.hasLast(conf, entry, typ) {
		return conf, c.speaks(known)
	}
	conf, err = Remove(conf, typ)
	if err != nil {
		return nil, err
	}
	c, err := read(conf)
	if err != nil {
		return nil, err
	}
	if err := c.speaks(known); err != nil {
		return nil, err
	}
	last := c.plugins[len(c.plugins)-1]
	text, err := layOut(entry, last.pad)
	if err != nil {
		return nil, err
	}
	return slices.Concat(conf[:last.end], []byte(","), []byte(last.pad), text, conf[last.end:]), nil
}

// hasLast: entry is there, once, as the last one.
func (c *chain) hasLast(conf, entry []byte, typ string) bool {
	for _, p := range c.plugins[:len(c.plugins)-1] {
		if p.typ == typ {
			return false
		}
	}
	last := c.plugins[len(c.plugins)-1]
	return same(conf[last.start:last.end], entry)
}

// same compares JSON texts but for their white space.
func same(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// layOut writes entry as its neighbours are written: in lines where they stand
// on lines of their own.
func layOut(entry []byte, pad string) ([]byte, error) {
	var out bytes.Buffer
	nl := strings.LastIndexByte(pad, '\n')
	if nl < 0 {
		err := json.Compact(&out, entry)
		return out.Bytes(), err
	}
	step := "  "
	if strings.Contains(pad[nl:], "\t") {
		step = "\t"
	}
	err := json.Indent(&out, entry, pad[nl+1:], step)
	return out.Bytes(), err
}

// Remove returns conf without the plugins of type typ; conf itself when it has
// none. What stood before Append is there again, byte for byte.
func Remove(conf []byte, typ string) ([]byte, error) {
	c, err := read(conf)
	if err != nil {
		return nil, err
	}
	out := conf
	for i := len(c.plugins) - 1; i >= 0; i-- {
		p := c.plugins[i]
		if p.typ != typ {
			continue
		}
		from, to := p.start, p.end
		switch {
		case i > 0: // with the comma before it
			from = c.plugins[i-1].end
		case len(c.plugins) > 1: // with the comma after it
			to = c.plugins[1].start
		}
		out = slices.Concat(out[:from], out[to:])
		c.plugins = slices.Delete(c.plugins, i, i+1)
	}
	return out, nil
}

// Chains reports whether conf is a conflist that a runtime would use, and
// whether its plugins are there with one of type typ as the last.
func Chains(conf []byte, typ string) (last bool, err error) {
	c, err := read(conf)
	if err != nil {
		return false, err
	}
	return c.plugins[len(c.plugins)-1].typ == typ, nil
}

// Single makes a conflist of the configuration of one plugin (.conf, .json), as
// container runtimes do: its name and version become the list's.
func Single(conf []byte) ([]byte, error) {
	var one struct {
		Name, Type, CNIVersion string
		Plugins                json.RawMessage
	}
	if err := json.Unmarshal(conf, &one); err != nil {
		return nil, fmt.Errorf("it is no JSON object: %w", err)
	}
	if one.Type == "" {
		return nil, errors.New("it has no type: a list of plugins has to be called .conflist")
	}
	head, err := json.MarshalIndent(struct {
		CNIVersion string `json:"cniVersion"`
		Name       string `json:"name"`
	}{one.CNIVersion, one.Name}, "", "  ")
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.Write(bytes.TrimSuffix(head, []byte("\n}")))
	out.WriteString(",\n  \"plugins\": [\n    ")
	out.Write(bytes.TrimSpace(conf))
	out.WriteString("\n  ]\n}\n")
	return out.Bytes(), nil
}
