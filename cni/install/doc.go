// Package install puts the mesh's plugin into a node's CNI chain and takes it
// out again. It owns the edit of the active conflist, the plugin's program in
// the folder of CNI plugins, and a journal of both; it refuses to know what the
// plugin does, and it never touches what another CNI wrote in a conflist.
//
//  1. Append and Remove are the edit itself, pure: bytes in, bytes out. Remove
//     after Append gives every byte back.
//  2. Installer.Reconcile looks at the folder as a container runtime does and
//     brings it to where it should be: program, journal, entry, in this order,
//     each written beside and moved into place.
//  3. Watcher calls it again whenever somebody changes the folder.
//  4. Withdraw says in the journal that the mesh leaves this node, and Finish,
//     which the plugin calls after each DEL, undoes the edit when the last
//     meshed pod is gone.
//
// See docs/design/0011-node-install.md.
package install
