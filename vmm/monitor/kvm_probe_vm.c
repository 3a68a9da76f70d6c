/* The VM of a probe: see kvm_probe_vm.h. */
#include "kvm_probe_vm.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

void probe_vm_done(struct probe_vm *vm)
{
    if (vm->run)
        munmap(vm->run, vm->run_size);
    if (vm->vcpu_fd >= 0)
        close(vm->vcpu_fd);
    if (vm->vm_fd >= 0)
        close(vm->vm_fd);
    if (vm->memory)
        munmap(vm->memory, vm->memory_bytes);
}

int probe_vm_init(int kvm_fd, size_t memory_bytes, struct probe_vm *vm, struct error *err)
{
    void *memory =
        mmap(NULL, memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return error_set(err, errno, "map %zu bytes", memory_bytes);
    vm->memory = memory;
    vm->memory_bytes = memory_bytes;
    vm->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
    if (vm->vm_fd < 0)
        return error_set(err, errno, "KVM_CREATE_VM");
    struct kvm_userspace_memory_region region = {.memory_size = memory_bytes,
                                                 .userspace_addr = (uintptr_t)vm->memory};
    if (ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return error_set(err, errno, "KVM_SET_USER_MEMORY_REGION");
    vm->vcpu_fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, 0);
    int size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (vm->vcpu_fd < 0 || size <= 0)
        return error_set(err, errno, "KVM_CREATE_VCPU");
    void *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd, 0);
    if (run == MAP_FAILED)
        return error_set(err, errno, "map kvm_run");
    vm->run = run;
    vm->run_size = (size_t)size;
    return 0;
}
