// Package endurance runs real meshes for long under load: one whose endpoints
// are killed, added, slowed and made to fail at random, where every failed
// request must be explained, and one that is left alone, where nothing may grow
// and every request must be counted. The ordinary run of the tests has short
// ones; `make chaos` and `make soak` take their time.
package endurance
