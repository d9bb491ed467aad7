// Package sandbox isolates pods on one machine without a container runtime. It
// owns a pod's namespaces, the tree its containers see, and the processes in
// them; it refuses to know manifests, networks and when anything should run.
//
//  1. The holder (root of the machine, in namespaces of its own) makes a Base:
//     devices, an empty /proc and /sys, copies of what pods may not change.
//  2. For a pod it builds a tree: the machine's files, read-only, with what is
//     private covered. Then it starts the pod's supervisor in a new user
//     namespace that owns new network, mount, UTS, IPC and PID namespaces.
//     Mounts that came from outside are locked for whoever lives in there:
//     what is covered stays covered, even for root with every capability.
//  3. The supervisor (Go cannot enter a user namespace, so it lives inside)
//     starts containers: a PID and a mount namespace each, with /proc, /sys,
//     /tmp, /run and volumes of their own.
//  4. The supervisor is pid 1 of the pod: its end is the pod's end.
//
// A program that uses this package must call Main first thing in main.
package sandbox

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// IDs is the number of user and group ids of a pod, beginning at Spec.IDBase.
const IDs = 65536

// BinDir is where containers find the mesh's own programs.
const BinDir = "/tunmesh/bin"

// Spec describes a pod's sandbox.
type Spec struct {
	// ID names the sandbox: a file name, unique for this holder.
	ID string
	// Hostname of the UTS namespace, as `hostname` prints it.
	Hostname string
	// IDBase is the machine's uid and gid that the pod's 0 is.
	IDBase uint32
	// Points are the absolute paths that containers mount something at. Those
	// that the machine lacks are made.
	Points []Point
}

// Point is a place to mount at.
type Point struct {
	Path string
	File bool // a regular file, else a directory
}

func (s *Spec) validate() error {
	if s.ID == "" || strings.ContainsAny(s.ID, "/\x00") || strings.HasPrefix(s.ID, ".") {
		return fmt.Errorf("sandbox id %q is not usable as a file name", s.ID)
	}
	if s.IDBase < IDs {
		return fmt.Errorf("id base %d overlaps the machine's own users", s.IDBase)
	}
	for _, p := range s.Points {
		if err := checkPoint(p.Path); err != nil {
			return err
		}
	}
	return nil
}

// checkPoint refuses to cover what isolation rests upon.
func checkPoint(p string) error {
	if !path.IsAbs(p) || path.Clean(p) == "/" {
		return fmt.Errorf("mount path %q: want an absolute path below /", p)
	}
	for _, own := range []string{"/proc", "/sys", "/dev", "/tunmesh"} {
		if c := path.Clean(p); c == own || strings.HasPrefix(c, own+"/") {
			return fmt.Errorf("mount path %s: %s belongs to the container itself", p, own)
		}
	}
	return nil
}

// Container is a process to start with namespaces of its own.
type Container struct {
	Name string
	// Argv is the command; the first is looked up in Env's PATH.
	Argv []string
	Env  []string
	Dir  string // working directory, "" = /
	Identity
	Mounts []Mount
	// ReadOnly leaves only volumes and /dev/shm to write to: /tmp, /run and
	// /var/tmp are empty and stay so. Otherwise they are the container's own.
	ReadOnly bool
}

// Identity is what the process may do.
type Identity struct {
	UID, GID   uint32
	Groups     []uint32
	Caps       Caps // bounding set; of uid 0 the permitted set too
	NoNewPrivs bool
	// Filter denies system calls that no container needs (see seccomp.go).
	Filter bool
}

// Mount shows a volume, or a part of one, in a container.
type Mount struct {
	Volume, SubPath, Path string
	ReadOnly              bool
	File                  bool // SubPath is a regular file
}

// Volume is a folder of the pod, in memory.
type Volume struct {
	Name string
	// Mode of the folder; UID and GID own it and its files.
	Mode     uint32
	UID, GID uint32
	// MaxBytes bounds what is written there; 0 is DefaultVolumeBytes.
	MaxBytes int64
	// Files, when not nil, are all that the volume holds: others are removed.
	Files []File
}

// DefaultVolumeBytes bounds a volume without a limit of its own.
const DefaultVolumeBytes = 256 << 20

// File is one file of a volume.
type File struct {
	Path string // relative
	Mode uint32
	Data []byte
}

func (v *Volume) validate() error {
	if !plainName(v.Name) {
		return fmt.Errorf("volume name %q is not usable as a file name", v.Name)
	}
	for _, f := range v.Files {
		if c := path.Clean(f.Path); c != f.Path || path.IsAbs(c) || c == "." || c == ".." || strings.HasPrefix(c, "../") {
			return fmt.Errorf("volume %s: file path %q: want a clean relative path", v.Name, f.Path)
		}
	}
	return nil
}

func plainName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

// Exec is a process to start inside a running container.
type Exec struct {
	Argv []string
	Env  []string
	Dir  string
	Identity
	// TTY gives it a terminal of the container's.
	TTY bool
}

// Exit says how a process ended.
type Exit struct {
	Code   int // 128+signal when a signal ended it
	Signal int // 0: it exited by itself
}

// ErrGone means that the pod's supervisor has ended, and all with it.
var ErrGone = errors.New("the pod's sandbox is gone")
