package dashboard

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
)

// tokenParam is the parameter of the URL that a person is given.
const tokenParam = "token"

// door decides which requests are those of the person who typed the command. Any
// page of any site can make a browser send requests here, any name can be made to
// resolve to 127.0.0.1, and any user of this machine can connect.
type door struct {
	hosts  map[string]bool // what Host may be
	cookie string          // its name; browsers do not keep ports' cookies apart

	mu      sync.Mutex
	token   string // "" once it was used
	session string // the cookie's value
}

func newDoor(port int) *door {
	d := &door{hosts: map[string]bool{}, cookie: "tunmesh-" + strconv.Itoa(port), token: secret(), session: secret()}
	for _, h := range []string{"127.0.0.1", "localhost"} {
		d.hosts[net.JoinHostPort(h, strconv.Itoa(port))] = true
	}
	return d
}

func secret() string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	return base64.RawURLEncoding.EncodeToString(raw)
}

// link is the parameter that opens the door, once.
func (d *door) link() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return tokenParam + "=" + d.token
}

// refusal says why a request is not let in.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return r.text }

// check refuses what no page of ours sends, whoever it is.
func (d *door) check(r *http.Request) *refusal {
	if !d.hosts[r.Host] {
		return &refusal{http.StatusMisdirectedRequest, fmt.Sprintf("Host %q is not this dashboard's: open it by the address that meshctl dashboard printed", r.Host)}
	}
	if o := r.Header.Get("Origin"); o != "" && o != "http://"+r.Host {
		return &refusal{http.StatusForbidden, fmt.Sprintf("a page of %s may ask nothing here", o)}
	}
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "", "none", "same-origin":
	default:
		return &refusal{http.StatusForbidden, "a page of another site (" + site + ") may ask nothing here"}
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Header.Get("Origin") == "" {
		return &refusal{http.StatusForbidden, r.Method + " without Origin: only the dashboard's own page may send it"}
	}
	return nil
}

// enter takes a request's token for a session, once; false: it is not the token,
// or was used.
func (d *door) enter(w http.ResponseWriter, token string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.token == "" || subtle.ConstantTimeCompare([]byte(token), []byte(d.token)) != 1 {
		return false
	}
	d.token = ""
	http.SetCookie(w, &http.Cookie{Name: d.cookie, Value: d.session, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	return true
}

// known reports whether a request comes from where the token was used.
func (d *door) known(r *http.Request) bool {
	for _, c := range r.CookiesNamed(d.cookie) {
		if subtle.ConstantTimeCompare([]byte(c.Value), []byte(d.session)) == 1 {
			return true
		}
	}
	return false
}
