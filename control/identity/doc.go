// Package identity makes workload certificates. It owns the issuer and the trust
// anchors in force (Authority, kept in a Folder), the rules for what may be
// certified (CSR), and the wire service. It refuses to know how tokens are
// verified (TokenReviewer) and where pods come from (control/catalog).
//
// Certify, in order, each step refusing for good:
//
//  1. the token is verified for our audience;
//  2. the pod that it is bound to is alive in the catalog, with that UID, name
//     and service account: a token outlives its pod, an identity does not;
//  3. the CSR names that pod's identity and nothing else;
//  4. a certificate for at most Lifetime is signed.
package identity
