package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/pcapng"
	"github.com/tunmesh/tunmesh/internal/version"
)

// capture writes a pod's packets until it is interrupted.
func (a *app) capture(cmd *cobra.Command, f *tapFlags, at asked, args []string) error {
	switch {
	case f.output != "" || f.to != "" || f.labels != "" || f.match.Method+f.match.Scheme+f.match.Authority+f.match.PathPrefix != "" || cmd.Flags().Changed("max-rps"):
		return usage("--pcap takes all packets of a pod: no other flag says which, and Wireshark's filters do")
	}
	sels, err := parseResources(args, at.namespace, false, "")
	if err != nil {
		return err
	}
	if len(sels) != 1 || sels[0].GetKind() != "pod" || sels[0].GetName() == "" {
		return usage("--pcap: name one pod, as po/NAME")
	}
	pod := sels[0]
	out := a.out
	if f.pcap == "-" {
		if a.live() {
			return usage("--pcap -: packets are nothing for a terminal: name a file, or a pipe")
		}
	} else {
		file, err := os.OpenFile(f.pcap, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) // what was decrypted
		if err != nil {
			return fmt.Errorf("write the capture: %w", err)
		}
		defer file.Close()
		out = file
	}
	q, done, err := at.connect()
	if err != nil {
		return err
	}
	defer done()
	stream, err := q.Capture(cmd.Context(), &query.CaptureRequest{Namespace: pod.GetNamespace(), Pod: pod.GetName(), SnapLength: f.snap})
	if err != nil {
		return apiError(err)
	}
	c := &captured{out: bufio.NewWriterSize(out, 256<<10), says: a.err, pod: pod.GetNamespace() + "/" + pod.GetName()}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF), cmd.Context().Err() != nil:
			return c.end()
		case err != nil:
			return errors.Join(apiError(err), c.out.Flush())
		}
		if err := c.add(m); err != nil {
			return fmt.Errorf("write the capture: %w", err)
		}
	}
}

// captured is a capture as it is written.
type captured struct {
	out     *bufio.Writer
	says    io.Writer
	pod     string
	file    *pcapng.Writer // nil before the first message
	packets uint64
	lost    uint64
}

func (c *captured) add(m *tap.Packets) error {
	if c.file == nil {
		comment := ""
		if n := m.GetConnections(); n > 0 {
			comment = fmt.Sprintf("%d TCP connections are older than this capture: what they carry cannot be dissected from its beginning", n)
			fmt.Fprintf(c.says, "%s\n", comment)
		}
		var err error
		if c.file, err = pcapng.NewWriter(c.out, "meshctl "+version.String(), c.pod, comment); err != nil {
			return err
		}
	}
	for _, p := range m.GetPackets() {
		side := pcapng.Wire
		if p.GetApp() {
			side = pcapng.App
		}
		if err := c.file.Packet(side, time.Unix(0, p.GetUnixNano()), p.GetSent(), p.GetData(), p.GetLength(), ""); err != nil {
			return err
		}
		c.packets++
	}
	if n := m.GetLost(); n > 0 {
		c.lost += n
		fmt.Fprintf(c.says, "%d packets are missing: they came faster than they were taken\n", n)
	}
	return c.out.Flush()
}

// end writes what is to be said at the end.
func (c *captured) end() error {
	if c.file == nil {
		return nil
	}
	if c.lost > 0 {
		if err := c.file.Lost(pcapng.Wire, time.Now(), c.lost); err != nil {
			return fmt.Errorf("write the capture: %w", err)
		}
	}
	fmt.Fprintf(c.says, "%d packets captured, %d missing\n", c.packets, c.lost)
	return c.out.Flush()
}
