"""Answers measurements: one request in JSON a line, one answer a line.

{"ask": "models"}: the names of the CPU models that sev-snp-measure knows.
{"ask": "snp", ...}: the launch digest as sev-snp-measure computes it.
{"ask": "mrtd", ...}: the MRTD of a TDX guest, computed here from Intel's and edk2's documents, in
the order "one-pass" or "two-pass". It shares no code with anything else, and needs Python alone.

The answer is {"digest": ...}, {"models": [...]} or {"error": ...}. The process serves until its
input ends, so that a test starts one Python for all of its requests.
"""

import hashlib
import json
import struct
import sys
import uuid


def models(_request):
    from sevsnpmeasure import vcpu_types

    return {"models": sorted(vcpu_types.CPU_SIGS)}


def snp(request):
    from sevsnpmeasure import guest, vcpu_types
    from sevsnpmeasure.sev_mode import SevMode

    digest = guest.calc_launch_digest(
        SevMode.SEV_SNP,
        request["vcpus"],
        vcpu_types.CPU_SIGS[request["cpu"]],
        request["firmware"],
        request["kernel"],
        request["initrd"],
        request["cmdline"],
        request["features"],
    )
    return {"digest": digest.hex()}


# edk2, OvmfPkg/ResetVector: the table of GUIDs ends 32 bytes before the end of the image.
FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
TDX_METADATA = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
PAGE = 4096
CHUNK = 256
# Bits of a section's attributes (TDX Virtual Firmware Design Guide, "TDVF Metadata").
EXTEND = 1
AUGMENT = 2


def tdx_sections(image):
    end = len(image) - 32
    length, guid = struct.unpack("<H16s", image[end - 18 : end])
    if guid != FOOTER:
        raise ValueError("no table of GUIDs")
    start, at = end - length, end - 18
    while at - 18 >= start:
        length, guid = struct.unpack("<H16s", image[at - 18 : at])
        if guid == TDX_METADATA:
            (offset,) = struct.unpack("<I", image[at - length : at - length + 4])
            break
        at -= length
    else:
        raise ValueError("no TDX metadata")
    descriptor = len(image) - offset
    signature, _, version, count = struct.unpack_from("<4sIII", image, descriptor)
    if (signature, version) != (b"TDVF", 1):
        raise ValueError("no TDVF descriptor")
    for section in range(count):
        yield struct.unpack_from("<IIQQII", image, descriptor + 16 + 32 * section)


def mrtd(request):
    """TDH.MEM.PAGE.ADD and TDH.MR.EXTEND of Intel's TDX module, "Build-Time Measurement"."""
    with open(request["firmware"], "rb") as file:
        image = file.read()
    digest = hashlib.sha384()

    def add(gpa):
        digest.update(b"MEM.PAGE.ADD".ljust(16, b"\0") + struct.pack("<Q", gpa) + bytes(104))

    def extend(gpa, page):
        for at in range(0, PAGE, CHUNK):
            digest.update(b"MR.EXTEND".ljust(16, b"\0") + struct.pack("<Q", gpa + at) + bytes(104))
            digest.update(page[at : at + CHUNK])

    for offset, size, base, memory, _, attributes in tdx_sections(image):
        content = image[offset : offset + size].ljust(memory, b"\0")
        pages = [(base + at, content[at : at + PAGE]) for at in range(0, memory, PAGE)]
        adds, extends = not attributes & AUGMENT, attributes & EXTEND
        if request["order"] == "two-pass":
            for gpa, _ in pages if adds else []:
                add(gpa)
            for gpa, page in pages if extends else []:
                extend(gpa, page)
        else:
            for gpa, page in pages:
                if adds:
                    add(gpa)
                if extends:
                    extend(gpa, page)
    return {"digest": digest.hexdigest()}


ANSWERS = {"models": models, "snp": snp, "mrtd": mrtd}


def main():
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = ANSWERS[request["ask"]](request)
        except Exception as error:
            # Whatever the tool ends with is its answer; the test judges it.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
