// Package local holds the end-to-end tests of traffic through a local mesh:
// balance, honesty about failures and addresses, policy, memory. It knows the
// programs only from outside.
package local
