package agent

// SawDaemonSet is what the log says then.
const SawDaemonSet = sawDaemonSet
