package render

import (
	"encoding/json"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/tunmesh/tunmesh/api/query"
)

// PolicyYAML prints what sidecars are told, as they are told it.
func PolicyYAML(w io.Writer, resp *query.PolicyResponse) error {
	text, err := told(resp)
	if err == nil {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return fmt.Errorf("print the policy: %w", err)
	}
	_, err = w.Write(text)
	return err
}

// PolicyJSON prints the same as JSON.
func PolicyJSON(w io.Writer, resp *query.PolicyResponse) error {
	text, err := told(resp)
	if err != nil {
		return fmt.Errorf("print the policy: %w", err)
	}
	return writeJSON(w, json.RawMessage(text))
}

// told is the message of either direction, as JSON.
func told(resp *query.PolicyResponse) ([]byte, error) {
	var m proto.Message = resp.GetInbound()
	if resp.GetInbound() == nil {
		m = resp.GetOutbound()
	}
	return protojson.Marshal(m)
}
