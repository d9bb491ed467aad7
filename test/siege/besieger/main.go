// Besieger is the programs of a siege: the attacker, the app that he attacks, and
// somebody else with an app of his own.
//
//	besieger serve            in the besieged pod: both apps
//	besieger attack NAME IP   plays an attack until its input ends
//	besieger get URL          prints a page
//	besieger ask IP           for each line of input, asks somebody else's app so
//	                          often, and prints how long each answer took, in ns, as JSON
//
// The attacker and his app give way to everything else that wants the processor, as
// they would be on other machines.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// The ports of the besieged pod.
const (
	bystanderPort = 8090
	victimPort    = 8080 // and the next: one for each kind of app
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "besieger:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve()
	case len(args) == 1 && args[0] == "victim":
		if err := giveWay(); err != nil {
			return err
		}
		return victim()
	case len(args) == 3 && args[0] == "attack":
		if err := giveWay(); err != nil {
			return err
		}
		return play(args[1], args[2])
	case len(args) == 2 && args[0] == "get":
		return get(args[1])
	case len(args) == 2 && args[0] == "ask":
		return ask(args[1])
	}
	return errors.New("want serve, attack NAME IP, or ask IP")
}

const (
	request = "GET / HTTP/1.1\r\nHost: b\r\n\r\n"
	answer  = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
)

// serve is somebody else's app, and starts the attacked ones beside itself.
func serve() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "victim")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	l, err := net.Listen("tcp", ":"+strconv.Itoa(bystanderPort))
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			for r := bufio.NewReader(c); ; {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					if _, err := io.WriteString(c, answer); err != nil {
						return
					}
				}
			}
		}()
	}
}

func get(url string) error {
	c := http.Client{Timeout: 20 * time.Second}
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

// ask is somebody else.
func ask(ip string) error {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(ip, strconv.Itoa(bystanderPort)), 20*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	var buf [512]byte
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		n, err := strconv.Atoi(in.Text())
		if err != nil {
			return err
		}
		took := make([]time.Duration, 0, n)
		for range n {
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			began := time.Now()
			if _, err := io.WriteString(c, request); err != nil {
				return err
			}
			for got := 0; got < len(answer); {
				n, err := c.Read(buf[:])
				if err != nil {
					return err
				}
				got += n
				if got >= 4 && !strings.HasPrefix(string(buf[:n]), "HTTP") && got == n {
					return fmt.Errorf("answered with %q", buf[:n])
				}
			}
			took = append(took, time.Since(began))
			time.Sleep(500 * time.Microsecond)
		}
		if err := json.NewEncoder(os.Stdout).Encode(took); err != nil {
			return err
		}
	}
	return nil
}
