#!/usr/bin/env bash
# Boots a stock Debian kernel in an emulated machine, runs a command in it as root, and ends it. The machine's root is all
# of this one's files, read-only, under an overlay in memory: what is built and installed here is there, and nothing of
# what it does stays. It has no network. Needs qemu-system-x86, busybox-static, kmod, cpio and xz-utils.
#
# usage: vm.sh KERNEL SECONDS COMMAND...
#   KERNEL   folder with an unpacked linux-image package
#   SECONDS  time limit
#
# Prints what the machine prints. The exit status is the command's, 124 if it did not end in time, 125 if the machine could
# not be booted. CTACCT_VM_MB is the machine's memory.
set -euo pipefail
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

readonly MEGABYTES=${CTACCT_VM_MB:-2048}

[ $# -ge 3 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
kernel=$(realpath "$1") seconds=$2
shift 2
work=$(mktemp -d /tmp/ctacct-vm.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

image=$(echo "$kernel"/boot/vmlinuz-*)
version=${image##*/vmlinuz-}
for modules in "$kernel"/{usr/,}lib/modules/"$version"; do [ ! -d "$modules" ] || break; done
[ -d "$modules" ] || { echo "vm.sh: $kernel has no modules" >&2; exit 125; }
depmod -b "${modules%/lib/modules/*}" "$version"

# What must be there before the root is: the modules in the order of their dependencies, and one program.
mkdir -p "$work/initramfs/modules"
cp /bin/busybox "$work/initramfs/busybox"
number=100
for module in virtio_pci 9pnet_virtio 9p overlay; do
  modprobe -d "${modules%/lib/modules/*}" -S "$version" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
done | awk '!seen[$0]++' | while read -r file; do
  number=$((number + 1))
  name=$work/initramfs/modules/$number-$(basename "${file%.xz}")
  case $file in *.xz) xz -dc "$file" > "$name" ;; *) cp "$file" "$name" ;; esac
done
cat > "$work/initramfs/init" <<TEXT
#!/busybox sh
b=/busybox
\$b mkdir -p /proc /lower /memory /root
\$b mount -t proc none /proc
for module in /modules/*; do \$b insmod \$module; done
\$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /lower || \$b poweroff -f
\$b mount -t tmpfs -o size=8g,nr_inodes=1m none /memory
\$b mkdir /memory/upper /memory/work
\$b mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work none /root || \$b poweroff -f
cd /root
\$b mount -t proc none proc
\$b mount -t sysfs none sys
\$b mount -t cgroup2 none sys/fs/cgroup
\$b mount -t devtmpfs none dev
\$b mkdir -p dev/pts dev/shm
\$b mount -t devpts none dev/pts
for folder in dev/shm run; do \$b mount -t tmpfs -o mode=1777 none \$folder; done
\$b ln -s /proc/self/fd dev/fd
\$b rm -rf lib/modules/$version
\$b mkdir -p lib/modules
\$b ln -s $modules lib/modules/$version
\$b cp /command run/command
\$b umount /proc
exec \$b switch_root /root /bin/bash /run/command
TEXT
chmod +x "$work/initramfs/init"
{
  echo "export HOME=/root LC_ALL=$LC_ALL PATH=$PATH ${CI:+CI=$CI}"
  echo "ip link set lo up; echo; echo vm-booted; cd $(printf %q "$PWD")"
  printf '%q ' "$@"
  printf '\necho "vm-status $?"\n/bin/busybox poweroff -f\n'
} > "$work/initramfs/command"
(cd "$work/initramfs" && find . | cpio --quiet -o -H newc) > "$work/initramfs.cpio"

status=0
exec 3> >(sed -u 's/\r//g; s/\x1b[^a-zA-Z]*[a-zA-Z]//g' | tee "$work/said" |
  sed -u '1,/^vm-booted$/d; /^vm-status /d; /reboot: Power down$/d')
filter=$!
# The machine ends with this script, however this script ends. It runs in the background because a signal does not interrupt
# a foreground command. A kernel panic reboots, which also ends the machine.
setpriv --pdeathsig TERM timeout --kill-after=5 "$seconds" setpriv --pdeathsig KILL qemu-system-x86_64 \
  -accel tcg,thread=multi -cpu max -smp 2 -m "$MEGABYTES" -nographic -no-reboot -nic none \
  -kernel "$image" -initrd "$work/initramfs.cpio" -append "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off" \
  -virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap < /dev/null >&3 2> "$work/errors" 3>&- &
machine=$!
exec 3>&-
wait "$machine" || status=$?
wait "$filter" || true
grep -qx vm-booted "$work/said" || {
  echo "vm.sh: $version could not be booted" >&2
  tail -n 20 "$work/said" "$work/errors" >&2
  exit 125
}
[ "$status" != 124 ] || { echo "vm.sh: $version did not end within $seconds s" >&2; exit 124; }
said=$(sed -n 's/^vm-status //p' "$work/said" | tail -n 1)
exit "${said:-125}"
