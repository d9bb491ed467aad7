package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// say talks with serveTCP: the server speaks first, then it echoes.
func say(ctx context.Context, addr, text string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	first, err := in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("read what the server says first: %w", err)
	}
	if _, err := fmt.Fprintln(conn, text); err != nil {
		return err
	}
	answer, err := in.ReadString('\n')
	fmt.Print(first, answer)
	return err
}

func lookup(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil {
		return err
	}
	slices.Sort(addrs)
	fmt.Println(strings.Join(addrs, "\n"))
	return nil
}

func id() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return err
	}
	for _, l := range regexp.MustCompile(`(?m)^(Uid|CapEff|NoNewPrivs|Seccomp):.*$`).FindAllString(string(status), -1) {
		fmt.Println(strings.Join(strings.Fields(l), " "))
	}
	fmt.Println("Map:", strings.Join(strings.Fields(string(users)), " "))
	return nil
}
