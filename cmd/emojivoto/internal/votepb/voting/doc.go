// Package voting is generated from voting.proto, which documents it.
package voting
