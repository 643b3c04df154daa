# A run that does not fit into the limits of its process or container is refused with both sizes, before anything is written.
refused() {
  says err "memory: expected a run of at most" "$1" "planned; try a smaller --batch-size or --seq-len"
  never_says err "panicked" "memory allocation of"
  [ ! -e r ] || fail "a run folder was made"
}
limited() {
  ulimit -v 700000
  mantissa "$@"
}
exits 3 limited train --device cpu --model gpt-mini --batch-size 64 --out r
refused "(by ulimit -v)"

group=/sys/fs/cgroup/memory/mantissa-case-$$
limit=memory.limit_in_bytes
if [ ! -d /sys/fs/cgroup/memory ]; then
  group=/sys/fs/cgroup/mantissa-case-$$
  limit=memory.max
fi
mkdir "$group" 2>/dev/null && [ -w "$group/$limit" ] || skip "the limit of a process is refused; cannot make a control group here"
trap 'rmdir "$group"' EXIT
echo 300M >"$group/$limit"
grouped() (
  echo "$BASHPID" >"$group/cgroup.procs"
  exec "$MANTISSA" "$@"
)
exits 3 grouped train --device cpu --model gpt-mini --batch-size 64 --out r
refused "(by the limit of the container or control group)"
