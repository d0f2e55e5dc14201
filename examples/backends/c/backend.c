// A backend for guests of IBM Secure Execution, on s390x: the contract's `tee-backend` in C.
//
// `describe` says what it is and may have at most, `check` what this host lacks, `plan` makes a
// launch plan. `gather` alone asks the host.

#include "values.h"

#define NAME "se-c"
#define GUEST_TYPE "s390-pv-guest"
#define DEFAULT_MACHINE "s390-ccw-virtio"
#define DEFAULT_CPU "host"
#define GUARD "pv0"
#define ULTRAVISOR "/sys/firmware/uv/prot_virt_host"
// KVM_CAP_S390_PROTECTED (kernel, include/uapi/linux/kvm.h).
#define CAPABILITY 180
#define CAPABILITY_TEXT "180"
// With it a device uses what the guest shares, and none of its other memory.
#define SHARED "iommu_platform"
#define MACHINE_DENIED "the backend may not ask for the versioned name of the machine"
#define MACHINE_GRANT "add qemu-machine * to the grants of " NAME

// What QEMU needs beside the guest's memory.
static const uint64_t OVERHEAD_BYTES = 256 << 20;
static const size_t LONGEST_NAME = 128;
static const size_t LONGEST_QUOTE = 80;

string joined(const char *before, string found, const char *after) {
  size_t first = strlen(before), last = strlen(after);
  uint8_t *whole = malloc(first + found.len + last);
  memcpy(whole, before, first);
  memcpy(whole + first, found.ptr, found.len);
  memcpy(whole + first + found.len, after, last);
  return (string){whole, first + found.len + last};
}

string quoted(string found) {
  uint8_t *shown = malloc(LONGEST_QUOTE);
  size_t length = 0;
  for (size_t i = 0; i < found.len && length < LONGEST_QUOTE; i++) {
    // Of other scripts nothing is shown, so that no sign is cut in two.
    if (found.ptr[i] >= ' ' && found.ptr[i] <= '~') {
      shown[length++] = found.ptr[i];
    }
  }
  return joined("\"", (string){shown, length}, "\"");
}

// ---- Facts ---------------------------------------------------------------------------------

typedef enum { KNOWN, ABSENT, DENIED, FAILED } state;

// How a question was answered, and for a failure why.
typedef struct {
  state state;
  string reason;
} answer;

typedef struct {
  answer kvm, capability, ultravisor, guest_type, machine;
  int64_t capability_value;
  string ultravisor_value, machine_value;
} facts;

static answer of(bool is_known, fact_error failure) {
  if (is_known) {
    return (answer){.state = KNOWN};
  }
  switch (failure.tag) {
  case CASEMATE_TEE_FACTS_FACT_ERROR_ABSENT:
    return (answer){.state = ABSENT};
  case CASEMATE_TEE_FACTS_FACT_ERROR_DENIED:
    return (answer){.state = DENIED};
  default:
    return (answer){.state = FAILED, .reason = failure.val.failed};
  }
}

static facts gather(string machine) {
  facts all = {0};
  fact_error failure = {0};
  string kvm = text("/dev/kvm"), ultravisor = text(ULTRAVISOR), type = text(GUEST_TYPE);
  tee_backend_list_string_t properties;
  // Each question is a statement of its own: C says nothing about the order of a call's arguments,
  // and `failure` is written by the question.
  bool is_known = casemate_tee_facts_device(&kvm, &failure);
  all.kvm = of(is_known, failure);
  is_known = casemate_tee_facts_kvm_capability(CAPABILITY, &all.capability_value, &failure);
  all.capability = of(is_known, failure);
  is_known = casemate_tee_facts_read_text(&ultravisor, &all.ultravisor_value, &failure);
  all.ultravisor = of(is_known, failure);
  is_known = casemate_tee_facts_qemu_type(&type, &properties, &failure);
  all.guest_type = of(is_known, failure);
  is_known = casemate_tee_facts_qemu_machine(&machine, &all.machine_value, &failure);
  all.machine = of(is_known, failure);
  return all;
}

// ---- What a host must have -----------------------------------------------------------------

// One thing that was looked at: a finding of `check`, and where it fails an error of `plan`.
typedef struct {
  finding finding;
  uint8_t code;
} examined;

static examined passed(const char *id, const char *subject, const char *detail) {
  return (examined){{text(id), CASEMATE_TEE_TYPES_SEVERITY_PASS, text(subject), text(detail), {0}}, 0};
}

static examined failed(const char *id, uint8_t code, const char *subject, string detail,
                       const char *remedy) {
  return (examined){
      {text(id), CASEMATE_TEE_TYPES_SEVERITY_FAIL, text(subject), detail, text(remedy)}, code};
}

// Not being allowed to look is no statement about the host: QEMU's start decides.
static examined unknown(const char *id, const char *subject, const char *remedy) {
  string detail = joined("the backend may not look at ", text(subject), "");
  return (examined){
      {text(id), CASEMATE_TEE_TYPES_SEVERITY_WARN, text(subject), detail, text(remedy)}, 0};
}

// What is there or not.
static examined looked(const char *id, const char *subject, answer found, bool is_right,
                       const char *good, const char *bad, const char *remedy,
                       const char *grant) {
  switch (found.state) {
  case KNOWN:
    if (is_right) {
      return passed(id, subject, good);
    }
    break;
  case DENIED:
    return unknown(id, subject, grant);
  case FAILED:
    return failed(id, CASEMATE_TEE_TYPES_ERROR_CODE_UNAVAILABLE, subject,
                  joined("it cannot be looked at: ", quoted(found.reason), ""), remedy);
  case ABSENT:
    break;
  }
  return failed(id, CASEMATE_TEE_TYPES_ERROR_CODE_UNSUPPORTED_HOST, subject, text(bad), remedy);
}

#define EXAMINED 5

// In the order in which an operator would mend it.
static void examine(const casemate_tee_types_host_context_t *host, const facts *found,
                    examined all[EXAMINED]) {
  all[0] = is(host->architecture, "s390x")
               ? passed("host.architecture", "architecture", "the host is s390x")
               : failed("host.architecture", CASEMATE_TEE_TYPES_ERROR_CODE_UNSUPPORTED_HOST,
                        "architecture",
                        joined("Secure Execution is there on s390x only, and this host is ",
                               quoted(host->architecture), ""),
                        "choose another backend, or another host");
  all[1] = is(host->accelerator, "kvm")
               ? looked("host.kvm", "/dev/kvm", found->kvm, true, "/dev/kvm can be used",
                        "there is no /dev/kvm", "load the kernel module kvm",
                        "add device /dev/kvm to the grants of " NAME)
               : failed("host.kvm", CASEMATE_TEE_TYPES_ERROR_CODE_UNSUPPORTED_HOST, "accelerator",
                        joined("a secure guest takes KVM, and the accelerator is ",
                               quoted(host->accelerator), ""),
                        "set qemu.accelerator to kvm");
  all[2] = looked("host.ultravisor", ULTRAVISOR, found->ultravisor,
                  begins(found->ultravisor_value, "1"), "the kernel hosts secure guests",
                  "the kernel hosts no secure guests", "start the host's kernel with prot_virt=1",
                  "add read-text " ULTRAVISOR " to the grants of " NAME);
  all[3] = looked("host.capability", "kvm-capability " CAPABILITY_TEXT, found->capability,
                  found->capability_value > 0, "KVM makes secure guests",
                  "KVM makes no secure guests", "use an IBM z15 or newer, and Linux 5.7 or newer",
                  "add kvm-capability " CAPABILITY_TEXT " to the grants of " NAME);
  all[4] = looked("qemu.guest", "qemu-type " GUEST_TYPE, found->guest_type, true,
                  "QEMU has " GUEST_TYPE, "this QEMU has no object " GUEST_TYPE,
                  "install QEMU 6.0 or newer for s390x",
                  "add qemu-type " GUEST_TYPE " to the grants of " NAME);
}

static finding of_machine(uint8_t severity, string detail, const char *remedy) {
  return (finding){text("qemu.machine"), severity, text("machine"), detail, text(remedy)};
}

// For `check`, which knows the default machine. It never fails, for a request may name another.
static finding default_machine(const facts *found) {
  switch (found->machine.state) {
  case KNOWN:
    return of_machine(CASEMATE_TEE_TYPES_SEVERITY_PASS,
                      joined("machine " DEFAULT_MACHINE " is ", quoted(found->machine_value), ""),
                      "");
  case ABSENT:
    return of_machine(CASEMATE_TEE_TYPES_SEVERITY_WARN,
                      text("this QEMU has no machine " DEFAULT_MACHINE),
                      "install a QEMU for s390x that has it, or name another machine in each request");
  case DENIED:
    return of_machine(CASEMATE_TEE_TYPES_SEVERITY_WARN, text(MACHINE_DENIED), MACHINE_GRANT);
  case FAILED:
    break;
  }
  return of_machine(CASEMATE_TEE_TYPES_SEVERITY_WARN,
                    joined("QEMU did not tell its machines: ", quoted(found->machine.reason), ""),
                    "see the daemon's log for what QEMU said");
}

static finding no_measurement(void) {
  return (finding){text("measurement.none"), CASEMATE_TEE_TYPES_SEVERITY_NOTE, text("backend"),
                   text("the image of a secure guest is encrypted by its owner, and nothing is "
                        "computed of it here"),
                   text("prove the guest by what only the owner's image can know")};
}

// ---- describe, check -----------------------------------------------------------------------

void exports_casemate_tee_backend_describe(casemate_tee_types_backend_info_t *info) {
  *info = (casemate_tee_types_backend_info_t){
      .tee = text("se"),
      .protection = CASEMATE_TEE_TYPES_PROTECTION_GUARD,
      .name = text(NAME),
      .vendor = text("Casemate examples"),
      .version = text("0.1.0"),
  };
  LIST(info->architectures, string, text("s390x"));
  LIST(info->needs, casemate_tee_types_need_t,
       {text("device"), text("/dev/kvm"), text("whether KVM can be used")},
       {text("read-text"), text(ULTRAVISOR), text("whether the kernel hosts secure guests")},
       {text("kvm-capability"), text(CAPABILITY_TEXT), text("whether KVM makes secure guests")},
       {text("qemu-type"), text(GUEST_TYPE), text("whether this QEMU makes secure guests")},
       {text("qemu-machine"), text("*"), text("the versioned name of the machine")});
  LIST(info->objects, casemate_tee_types_type_use_t, {text(GUEST_TYPE), {0}, {0}});
  LIST(info->extras, casemate_tee_types_extra_t, {text("qemu-since:" GUEST_TYPE), text("6.0")},
       {text("identity"), text("none")});
}

void exports_casemate_tee_backend_check(casemate_tee_types_host_context_t *host,
                                        exports_casemate_tee_backend_list_finding_t *ret) {
  facts found = gather(text(DEFAULT_MACHINE));
  examined all[EXAMINED];
  examine(host, &found, all);
  ret->len = EXAMINED + 2;
  ret->ptr = malloc(ret->len * sizeof *ret->ptr);
  for (size_t i = 0; i < EXAMINED; i++) {
    ret->ptr[i] = all[i].finding;
  }
  ret->ptr[EXAMINED] = default_machine(&found);
  ret->ptr[EXAMINED + 1] = no_measurement();
}

// ---- plan ----------------------------------------------------------------------------------

// Fills in the error; false, so that a caller may return it.
static bool refuse(error *err, uint8_t code, const char *subject, string message,
                   const char *remedy) {
  *err = (error){.code = {.tag = code},
                 .subject = text(subject),
                 .message = message,
                 .remedy = text(remedy)};
  return false;
}

static bool invalid(error *err, const char *subject, string message, const char *remedy) {
  return refuse(err, CASEMATE_TEE_TYPES_ERROR_CODE_INVALID_REQUEST, subject, message, remedy);
}

// One word, as QEMU names machines and CPU models.
static bool is_name(string found) {
  for (size_t i = 0; i < found.len; i++) {
    uint8_t c = found.ptr[i];
    bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!is_letter && (i == 0 || !strchr("._+-", c) || c == 0)) {
      return false;
    }
  }
  return found.len > 0 && found.len <= LONGEST_NAME;
}

// What nobody named is the host's default for every backend, and gives way to this one's own.
static bool is_default(casemate_tee_types_option_choice_t choice) {
  return choice.is_some && choice.val.origin == CASEMATE_TEE_TYPES_ORIGIN_BUILT_IN;
}

static string wanted(casemate_tee_types_option_choice_t choice, const char *fallback) {
  return choice.is_some && !is_default(choice) ? choice.val.value : text(fallback);
}

// Remarks about a plan, with room for a warning of each thing examined and for all others.
typedef struct {
  finding all[EXAMINED + 4];
  size_t count;
} remarks;

static void add(remarks *to, finding one) { to->all[to->count++] = one; }

// What was replaced is told.
static void add_replaced(remarks *to, const casemate_tee_types_launch_request_t *request) {
  if (is_default(request->machine) && !is(request->machine.val.value, DEFAULT_MACHINE)) {
    add(to, (finding){text("machine.replaced"), CASEMATE_TEE_TYPES_SEVERITY_NOTE, text("machine"),
                      joined("the default machine ", quoted(request->machine.val.value),
                             " became " DEFAULT_MACHINE),
                      text("name a machine in the request, or set one for all VMs")});
  }
  if (is_default(request->cpu) && !is(request->cpu.val.value, DEFAULT_CPU)) {
    add(to, (finding){text("cpu.model-replaced"), CASEMATE_TEE_TYPES_SEVERITY_NOTE, text("cpu"),
                      joined("the default CPU model ", quoted(request->cpu.val.value),
                             " became " DEFAULT_CPU),
                      text("name a CPU model in the request, or set one for all VMs")});
  }
}

// What was examined becomes warnings, or the error of what fails first.
static bool add_examined(remarks *to, const examined all[EXAMINED], error *err) {
  for (size_t i = 0; i < EXAMINED; i++) {
    finding one = all[i].finding;
    if (one.severity == CASEMATE_TEE_TYPES_SEVERITY_FAIL) {
      *err = (error){.code = {.tag = all[i].code},
                     .subject = one.subject,
                     .message = one.detail,
                     .remedy = one.remedy};
      return false;
    }
    if (one.severity == CASEMATE_TEE_TYPES_SEVERITY_WARN) {
      add(to, one);
    }
  }
  return true;
}

// Whether QEMU takes it for a switch that is on.
static bool is_on(casemate_tee_types_value_t value) {
  if (value.tag == CASEMATE_TEE_TYPES_VALUE_BOOLEAN) {
    return value.val.boolean;
  }
  if (value.tag != CASEMATE_TEE_TYPES_VALUE_TEXT) {
    return false;
  }
  string word = value.val.text;
  return is(word, "on") || is(word, "yes") || is(word, "true") || is(word, "y");
}

// What the operator set for a device wins over the plan's rules, so it is held against them.
static bool must_be_shared(const casemate_tee_types_launch_request_t *request, error *err) {
  for (size_t i = 0; i < request->devices.len; i++) {
    const casemate_tee_types_host_device_t *device = &request->devices.ptr[i];
    for (size_t j = 0; j < device->properties.len; j++) {
      property set = device->properties.ptr[j];
      if (is(set.path, SHARED) && !is_on(set.value)) {
        return invalid(err, SHARED,
                       joined("device ", quoted(device->id),
                              " has " SHARED " off, and a secure guest cannot use it then"),
                       "leave " SHARED " to the backend");
      }
    }
  }
  return true;
}

static bool cpu_of(string name, typed *cpu, error *err) {
  if (!is_name(name)) {
    return invalid(err, "cpu",
                   joined("", quoted(name), " is not the name of a CPU model, which is one word"),
                   "name a model such as host, without features");
  }
  *cpu = (typed){.kind = name};
  return true;
}

static bool machine_of(string name, const facts *found, typed *machine, error *err) {
  const char *remedy = "name s390-ccw-virtio, or a version of it such as s390-ccw-virtio-7.2";
  if (!is_name(name)) {
    return invalid(err, "machine",
                   joined("", quoted(name), " is not the name of a machine, which is one word"),
                   remedy);
  }
  switch (found->machine.state) {
  case KNOWN:
    break;
  case ABSENT:
    return invalid(err, "machine", joined("this QEMU has no machine ", quoted(name), ""), remedy);
  case DENIED:
    return refuse(err, CASEMATE_TEE_TYPES_ERROR_CODE_UNSUPPORTED_HOST, "machine",
                  text(MACHINE_DENIED), MACHINE_GRANT);
  case FAILED:
    return refuse(err, CASEMATE_TEE_TYPES_ERROR_CODE_UNAVAILABLE, "machine",
                  joined("QEMU did not tell its machines: ", quoted(found->machine.reason), ""),
                  "see the daemon's log for what QEMU said, and try again");
  }
  if (!begins(found->machine_value, "s390-ccw-virtio-") || !is_name(found->machine_value)) {
    return invalid(err, "machine",
                   joined("machine ", quoted(found->machine_value),
                          " is no s390-ccw-virtio, which secure guests need"),
                   remedy);
  }
  *machine = (typed){.kind = found->machine_value};
  return true;
}

// An encrypted image has kernel, initrd and command line in it, and is started as the kernel.
static bool boot_of(const casemate_tee_types_launch_request_t *request,
                    casemate_tee_types_boot_inputs_t *boot, error *err) {
  const casemate_tee_types_list_host_file_t files = request->host.files;
  bool has_disk = false;
  const casemate_tee_types_host_file_t *kernel = NULL;
  for (size_t i = 0; i < files.len; i++) {
    has_disk |= is(files.ptr[i].role, "disk");
    if (kernel == NULL && is(files.ptr[i].role, "kernel")) {
      kernel = &files.ptr[i];
    }
  }
  for (size_t i = 0; i < request->devices.len; i++) {
    has_disk |= is(request->devices.ptr[i].kind, "disk");
  }
  if (is(request->boot, "kernel")) {
    if (kernel == NULL) {
      return refuse(err, CASEMATE_TEE_TYPES_ERROR_CODE_UNSUPPORTED_HOST, "kernel",
                    text("boot is kernel, but there is no kernel file"),
                    "name an image that genprotimg made as the kernel, or boot from disk");
    }
    if (kernel->size == 0) {
      return refuse(err, CASEMATE_TEE_TYPES_ERROR_CODE_UNSUITABLE_FILE, "kernel",
                    joined("kernel ", quoted(kernel->label), " is empty"),
                    "name an image that genprotimg made");
    }
    *boot = CASEMATE_TEE_TYPES_BOOT_INPUTS_KERNEL;
    return true;
  }
  if (is(request->boot, "disk")) {
    if (!has_disk) {
      return refuse(err, CASEMATE_TEE_TYPES_ERROR_CODE_UNSUPPORTED_HOST, "disk",
                    text("boot is disk, but there is no disk"),
                    "name a disk, or boot from a kernel");
    }
    *boot = 0;
    return true;
  }
  return invalid(err, "boot",
                 joined("boot is ", quoted(request->boot), ", wanted is kernel or disk"),
                 "set boot to kernel or disk");
}

// A caller's file that is left lying would be a wish that was dropped.
static bool must_be_used(const casemate_tee_types_launch_request_t *request,
                         casemate_tee_types_boot_inputs_t boot, error *err) {
  const casemate_tee_types_list_host_file_t files = request->host.files;
  for (size_t i = 0; i < files.len; i++) {
    const casemate_tee_types_host_file_t *file = &files.ptr[i];
    bool is_used = (boot != 0 && is(file->role, "kernel")) ||
                   (boot == 0 && is(file->role, "disk")) || begins(file->role, "setting:");
    if (file->origin == CASEMATE_TEE_TYPES_ORIGIN_REQUEST && !is_used) {
      *err = (error){.code = {.tag = CASEMATE_TEE_TYPES_ERROR_CODE_INVALID_REQUEST},
                     .subject = file->role,
                     .message = joined("a secure guest that boots so has no use for the file ",
                                       quoted(file->label), ""),
                     .remedy = text("leave the file out, or put it into the encrypted image")};
      return false;
    }
  }
  return true;
}

static finding left_out(void) {
  return (finding){text("se.image"), CASEMATE_TEE_TYPES_SEVERITY_WARN, text("kernel-cmdline"),
                   text("a secure guest has the initrd and the command line of its encrypted "
                        "image, and those of this host are not passed"),
                   text("put them into the image with genprotimg")};
}

// Nothing in a launch has a place for one.
static bool refuse_identity(const casemate_tee_types_launch_request_t *request, error *err) {
  if (!request->identity.is_some) {
    return true;
  }
  return invalid(err, "identity",
                 text("nothing in the launch of a secure guest carries an identity"),
                 "leave the identity out, or choose a backend that carries one");
}

bool exports_casemate_tee_backend_plan(casemate_tee_types_launch_request_t *request,
                                       casemate_tee_types_launch_plan_t *plan, error *err) {
  string name = wanted(request->machine, DEFAULT_MACHINE);
  facts found = gather(name);
  examined all[EXAMINED];
  examine(&request->host, &found, all);
  // It is the host's to read when this call has ended.
  remarks *told = malloc(sizeof *told);
  told->count = 0;
  typed machine, cpu;
  casemate_tee_types_boot_inputs_t boot;
  if (!add_examined(told, all, err) || !refuse_identity(request, err) ||
      !must_be_shared(request, err) || !cpu_of(wanted(request->cpu, DEFAULT_CPU), &cpu, err) ||
      !machine_of(name, &found, &machine, err) || !boot_of(request, &boot, err) ||
      !must_be_used(request, boot, err)) {
    return false;
  }
  add_replaced(told, request);
  add(told, left_out());
  add(told, no_measurement());
  *plan = (casemate_tee_types_launch_plan_t){
      .machine = machine,
      .cpu = cpu,
      .guard = {true, text(GUARD)},
      .boot = boot,
      .devices = {.transport = text("ccw")},
      .memory_overhead_bytes = OVERHEAD_BYTES,
      .findings = {told->all, told->count},
  };
  LIST(plan->objects, typed, {text(GUEST_TYPE), {true, text(GUARD)}, {0}});
  LIST(plan->devices.virtio_properties, property, switched_on(SHARED));
  LIST(plan->devices.refused, string, text("vfio"));
  LIST(plan->abilities, string, text("pause"), text("powerdown"));
  return true;
}
