package main

import (
	"os"
	"strings"
	"testing"
)

func TestOnlyTheProgramsUnwritablePagesAreShed(t *testing.T) {
	maps := `00400000-00839000 r-xp 00000000 00:2a 16 /tunmesh/bin/mesh-proxy
00839000-00d10000 r--p 00439000 00:2a 16 /tunmesh/bin/mesh-proxy
00d10000-00d52000 rw-p 00910000 00:2a 16 /tunmesh/bin/mesh-proxy
00d52000-02d94000 rw-p 00000000 00:00 0
7f0000000000-7f0000001000 r--p 00000000 00:2a 17 /tunmesh/bin/other
7f0000002000-7f0000003000 r--s 00000000 00:2a 16 /tunmesh/bin/mesh-proxy
7ffd4b3a7000-7ffd4b3c8000 rw-p 00000000 00:00 0 [stack]
nonsense`
	got := programRanges(strings.NewReader(maps), "/tunmesh/bin/mesh-proxy")
	if len(got) != 2 || got[0] != [2]uintptr{0x400000, 0x839000} || got[1] != [2]uintptr{0x839000, 0xd10000} {
		t.Errorf("%#x", got)
	}
}

func TestSheddingChangesNothing(t *testing.T) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Skip("no /proc here: " + err.Error())
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(programRanges(f, exe)) == 0 {
		t.Fatal("the program's own mapping was not found")
	}
	for range 10 {
		if err := shedOnce(); err != nil {
			t.Fatal(err)
		}
	}
}
