// Command testapp is the only program of the pods that tests run: a server that
// says what it sees, and the small tools that a pod without a shell lacks. It
// owns nothing.
//
//	testapp serve [ADDR]      HTTP: / says who and from where, /healthz, /env?name=X
//	testapp tcp [ADDR]        says who and from where before it is asked, then echoes
//	testapp grpc [ADDR]       gRPC health service: serves the service "", knows no other
//	testapp all               these three, at :8080, :8081 and :8082
//	testapp get URL           prints the body; exits with 1 on any failure
//	testapp say ADDR TEXT     connects, prints the first line, sends TEXT, prints the answer
//	testapp lookup NAME       prints the addresses, one a line, sorted
//	testapp cat FILE          prints a file
//	testapp copy FILE         copies the program itself there
//	testapp once FILE         fails the first time, and makes FILE by which it knows the second
//	testapp id                prints uid, capabilities and the map of user ids
//
// A copy that is called tar does what kubectl cp asks tar for.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// limit bounds every question.
const limit = 10 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	var err error
	if filepath.Base(os.Args[0]) == "tar" {
		err = tarMain(os.Args[1:])
	} else {
		args := append(os.Args[1:], "", "", "")
		err = run(ctx, args[0], args[1], args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testapp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, what, arg, more string) error {
	switch what {
	case "serve":
		return serve(ctx, arg)
	case "tcp":
		return serveTCP(ctx, arg)
	case "grpc":
		return serveGRPC(ctx, arg)
	case "all":
		return serveAll(ctx)
	case "get":
		return get(ctx, arg)
	case "say":
		return say(ctx, arg, more)
	case "lookup":
		return lookup(ctx, arg)
	case "cat":
		raw, err := os.ReadFile(arg)
		fmt.Print(string(raw))
		return err
	case "copy":
		return copySelf(arg)
	case "once":
		return once(arg)
	case "id":
		return id()
	}
	return errors.New("name one of serve, tcp, grpc, all, get, say, lookup, cat, copy, once, id")
}
