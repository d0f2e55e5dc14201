# Makes the file system of the box and becomes its systemd. Started in namespaces of its own, with
# the folder that is shared with the outside and the workspace as arguments.
set -eu
shared=$1
workspace=$2
root=$shared/root

# All of the host's root, with what is written going to memory.
mount -t tmpfs -o mode=0755 tmpfs "$shared/layers"
mkdir "$shared/layers/upper" "$shared/layers/work"
mount -t overlay overlay \
    -o "lowerdir=/,upperdir=$shared/layers/upper,workdir=$shared/layers/work" "$root"

mount -t proc proc "$root/proc"
# systemd raises limits of the kernel that are the host's as well.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/var/tmp"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

# What is built stays; and the folders may lie on file systems that the root does not show.
for folder in "$workspace" "${CARGO_HOME:-$HOME/.cargo}" "${RUSTUP_HOME:-$HOME/.rustup}"; do
    if [ -d "$folder" ]; then
        mkdir -p "$root$folder"
        mount --bind "$folder" "$root$folder"
    fi
done
mkdir "$root/run/casemate-box" "$root/run/host"
mount --bind "$shared/exchange" "$root/run/casemate-box"

ip link set lo up

cd "$root"
pivot_root . run/host
umount -l run/host
# Units of ours only: the host's would clean folders, start servers and wait for devices.
units=/run/systemd/transient:/run/systemd/system:/run/casemate-box/units
exec chroot . env -i container=casemate PATH="$PATH" SYSTEMD_UNIT_PATH="$units" \
    /lib/systemd/systemd --system --unit=casemate-box.target --log-target=console \
    > /run/casemate-box/systemd.log 2>&1 < /dev/null
