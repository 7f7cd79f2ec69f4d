use super::*;
use crate::options::By;
use crate::profile::Totals;
use crate::report::sample::{sample, sample_with_losses};

fn terminal(width: usize) -> Screen {
    Screen {
        width,
        shorten: true,
        color: false,
    }
}

fn written(profile: &Profile, by: By, top: usize, screen: Screen) -> String {
    let mut text = Vec::new();
    Text {
        options: TextOptions { by, top },
        screen,
    }
    .write(profile, &mut text)
    .unwrap();
    String::from_utf8(text).unwrap()
}

/// The main table alone.
fn main_table(by: By) -> String {
    let text = written(&sample(), by, 3, terminal(100));
    let from_here = text.splitn(3, "\n\n").nth(2).unwrap();
    from_here
        .split("\n\nWhat the copied")
        .next()
        .unwrap()
        .to_owned()
}

/// Every grouping.
pub(super) const ALL: [By; 7] = [
    By::Site,
    By::Function,
    By::Stack,
    By::Type,
    By::Process,
    By::File,
    By::Cause,
];

#[test]
#[expect(clippy::too_many_lines, reason = "the report is as long as that")]
fn text_at_80_columns() {
    insta::assert_snapshot!(written(&sample(), By::Site, 20, terminal(80)), @r"
    30.4 MiB copied in 10.2 s, 3.0 MiB/s
      The kernel copied 7,785 pages of 4.0 KiB for 5 of 6 processes.
      82.2% of it is copy-on-read: an object's reference count or the garbage
      collector's mark was written where the program only read.
      The command 'wrk' exited with status 0.
      Nothing was lost.
      memtrace 0.1.0, tracepoint backend, stacks by frame pointer, Linux
      6.12.41-cloud-amd64 x86_64, 2026-03-14T15:09:26Z

    Processes  times are since tracing began
       PID  COMMAND          FORKED  EXITED     COPIED  PAGES  SHARE      NOT COPIED
      4243  gunicorn: worke  before       -   13.7 MiB  3,500  45.0% █▍       15,362
      4244  gunicorn: worke  before       -   11.8 MiB  3,021  38.8% █▏       15,365
      4245  gunicorn: worke  512 ms  6.25 s    4.2 MiB  1,080  13.9% ▍        15,368
      4242  gunicorn         before       -  480.0 KiB    120   1.5% ▏        15,359
      4246  sh               7.00 s  7.02 s  256.0 KiB     64   0.8% ▏        15,371
      4247  gunicorn         10.0 s       -        0 B      0   0.0%          15,374

    Call sites
      SHARE              COPIED  PAGES  CALL SITE
      64.9% █████▎     19.7 MiB  5,050  gc_collect_main
             ./Modules/gcmodule.c:1202 in libpython3.11.so.1.0
             cause gc; origin fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.10 µs  p90 2.92 µs  p99 24.2 µs  max  572 µs
             age     min 20.0 ms  p50  3.00 s  p90  5.39 s  p99  5.96 s  max  6.02 s
             heaviest of 2 stacks, 81.6%:
               update_refs (inlined)         ./Modules/gcmodule.c:390
               deduce_unreachable (inlined)  ./Modules/gcmodule.c:1103
               gc_collect_main               ./Modules/gcmodule.c:1202
               _PyObject_GC_Alloc            ./Modules/gcmodule.c:2283
               PyDict_Copy                   ./Objects/dictobject.c:2876
               context                       /srv/shop/app/context.py:31
               checkout                      /srv/shop/app/views.py:88
               dispatch_request              /srv/shop/lib/flask/app.py:1484
               _start                        ../sysdeps/x86_64/start.S:115

      17.3% █▍          5.3 MiB  1,350  checkout
             /srv/shop/app/views.py:91
             cause refcount; origin fork; in 4243, 4244; type decimal.Decimal
             latency min 1.10 µs  p50 2.11 µs  p90 2.91 µs  p99 3.10 µs  max  144 µs
             age     min 20.0 ms  p50  2.94 s  p90  5.29 s  p99  5.93 s  max  6.02 s
             stack:
               checkout          /srv/shop/app/views.py:91
               dispatch_request  /srv/shop/lib/flask/app.py:1484

       7.9% ▋           2.4 MiB    612  sock_recv_impl
             ./Modules/socketmodule.c:3480 in libpython3.11.so.1.0
             cause kernel; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.08 µs  p90 2.91 µs  p99 3.10 µs  max 68.4 µs
             age     min 20.0 ms  p50  2.04 s  p90  5.22 s  p99  5.93 s  max  6.01 s
             stack:
               sock_recv_impl  ./Modules/socketmodule.c:3480
               recv            /usr/lib/python3.11/socket.py:706

       5.1% ▍           1.6 MiB    400  std::_Hashtable<std::s…_M_insert_unique_node
             /usr/include/c++/12/bits/hashtable.h:1719 in /srv/shop/lib/_pricing.so
             cause data; origin fork; in 4243
             latency min 1.10 µs  p50 2.06 µs  p90 2.91 µs  p99 3.10 µs  max 45.3 µs
             age     min 20.0 ms  p50  2.61 s  p90  4.69 s  p99  5.16 s  max  5.21 s
             stack:
               std::_Hashtable<std:…M_insert_unique_node  …/12/bits/hashtable.h:1719
               shop::pricing::apply  src/pricing.cc:77

       2.3% ▏         720.0 KiB    180  libssl.so.3+0x4a1f0
             /usr/lib/x86_64-linux-gnu/libssl.so.3 (no symbol)
             cause unknown; origin file; in 4245
             latency min 1.10 µs  p50 1.99 µs  p90 2.91 µs  p99 3.10 µs  max 13.7 µs
             age     min 20.0 ms  p50  1.18 s  p90  2.11 s  p99  2.33 s  max  2.35 s
             stack:
               libssl.so.3+0x4a1f0 (no symbol)
               [unknown] (code made at run time)
               ... the stack was deeper than could be taken

       1.5% ▏         480.0 KiB    120  _PyObject_Free
             ./Objects/obmalloc.c:1834 in libpython3.11.so.1.0
             cause allocator; origin fork; in 4242
             latency min 1.10 µs  p50 1.99 µs  p90 2.91 µs  p99 3.10 µs  max 13.7 µs
             age     min 20.0 ms  p50  787 ms  p90  1.41 s  p99  1.55 s  max  1.57 s

       0.8% ▏         256.0 KiB     64  _dl_relocate_object
             ./elf/dl-reloc.c:288 in /lib64/ld-linux-x86-64.so.2
             cause unknown; origin file; in 4246
             latency min 1.10 µs  p50 1.91 µs  p90 2.88 µs  p99 3.10 µs  max 3.10 µs

       0.1% ▏          36.0 KiB      9  evil\u{1b}[2J\u{202e}eman\nfunction
             /tmp/日本語/\u{7}.c:1 in /tmp/日本語/a.out
             cause data; origin ksm; in 4244
             age     min 20.0 ms  p50 72.0 ms  p90  124 ms  p99  124 ms  max  124 ms

    What the copied pages were
      SHARE              COPIED  PAGES  ORIGIN
      96.8% ███████▊   29.4 MiB  7,532  fork  shared since a fork
       3.1% ▎         976.0 KiB    244  file  of a private file mapping
       0.1% ▏          36.0 KiB      9  ksm   merged by the kernel (KSM)

    What was written to them
      SHARE              COPIED  PAGES  CAUSE
      64.9% █████▎     19.7 MiB  5,050  gc         the garbage collector's mark
      17.3% █▍          5.3 MiB  1,350  refcount   an object's reference count
       7.9% ▋           2.4 MiB    612  kernel     by the kernel, for a system call
       5.3% ▍           1.6 MiB    409  data       other writable data
       3.1% ▎         976.0 KiB    244  unknown    not known what was written
       1.5% ▏         480.0 KiB    120  allocator  a memory allocator's bookkeeping
      unknown for 180 pages: the instruction could not be read

    Write faults that copied nothing
      reuse        12,345  no longer shared, so the page was used as it is
      zero            678  the zero page was replaced by an empty page
      first touch  90,123  an absent page was filled for the first time
      split             -  not visible to the tracepoint backend

    What the tracepoint backend cannot see
      - Pages that another process writes through ptrace, /proc/PID/mem or
        process_vm_writev, and pages that a device writes by direct I/O, are copied
        without an exception, so they are not counted.
      - Copies of hugetlb pages are counted as reuse.
    ");
}

#[test]
fn text_at_160_columns() {
    insta::assert_snapshot!(written(&sample(), By::Site, 4, terminal(160)), @"
    30.4 MiB copied in 10.2 s, 3.0 MiB/s
      The kernel copied 7,785 pages of 4.0 KiB for 5 of 6 processes.
      82.2% of it is copy-on-read: an object's reference count or the garbage collector's mark was
      written where the program only read.
      The command 'wrk' exited with status 0.
      Nothing was lost.
      memtrace 0.1.0, tracepoint backend, stacks by frame pointer, Linux 6.12.41-cloud-amd64 x86_64,
      2026-03-14T15:09:26Z

    Processes  4 of 6; times are since tracing began
       PID  COMMAND          FORKED  EXITED     COPIED  PAGES  SHARE                   NOT COPIED
      4243  gunicorn: worke  before       -   13.7 MiB  3,500  45.0% ███████▎              15,362
      4244  gunicorn: worke  before       -   11.8 MiB  3,021  38.8% ██████▎               15,365
      4245  gunicorn: worke  512 ms  6.25 s    4.2 MiB  1,080  13.9% ██▎                   15,368
      4242  gunicorn         before       -  480.0 KiB    120   1.5% ▎                     15,359
      ... 2 processes more: 256.0 KiB, 64 pages (0.8%)

    Call sites  4 of 8
      SHARE                     COPIED  PAGES  CALL SITE
      64.9% ██████████▍       19.7 MiB  5,050  gc_collect_main
             ./Modules/gcmodule.c:1202 in /usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0
             cause gc; origin fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.10 µs  p90 2.92 µs  p99 24.2 µs  max  572 µs
             age     min 20.0 ms  p50  3.00 s  p90  5.39 s  p99  5.96 s  max  6.02 s
             heaviest of 2 stacks, 81.6%:
               update_refs (inlined)         ./Modules/gcmodule.c:390
               deduce_unreachable (inlined)  ./Modules/gcmodule.c:1103
               gc_collect_main               ./Modules/gcmodule.c:1202
               _PyObject_GC_Alloc            ./Modules/gcmodule.c:2283
               PyDict_Copy                   ./Objects/dictobject.c:2876
               context                       /srv/shop/app/context.py:31
               checkout                      /srv/shop/app/views.py:88
               dispatch_request              /srv/shop/lib/flask/app.py:1484
               _start                        ../sysdeps/x86_64/start.S:115

      17.3% ██▊                5.3 MiB  1,350  checkout
             /srv/shop/app/views.py:91
             cause refcount; origin fork; in 4243, 4244; type decimal.Decimal
             latency min 1.10 µs  p50 2.11 µs  p90 2.91 µs  p99 3.10 µs  max  144 µs
             age     min 20.0 ms  p50  2.94 s  p90  5.29 s  p99  5.93 s  max  6.02 s
             stack:
               checkout          /srv/shop/app/views.py:91
               dispatch_request  /srv/shop/lib/flask/app.py:1484

       7.9% █▎                 2.4 MiB    612  sock_recv_impl
             ./Modules/socketmodule.c:3480 in /usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0
             cause kernel; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.08 µs  p90 2.91 µs  p99 3.10 µs  max 68.4 µs
             age     min 20.0 ms  p50  2.04 s  p90  5.22 s  p99  5.93 s  max  6.01 s
             stack:
               sock_recv_impl  ./Modules/socketmodule.c:3480
               recv            /usr/lib/python3.11/socket.py:706

       5.1% ▉                  1.6 MiB    400  std::_Hashtable<std::string, std::pair<std::string const, …tring const, shop::pricing::Rule>>>::_M_insert_unique_node
             /usr/include/c++/12/bits/hashtable.h:1719 in /srv/shop/lib/_pricing.so
             cause data; origin fork; in 4243
             latency min 1.10 µs  p50 2.06 µs  p90 2.91 µs  p99 3.10 µs  max 45.3 µs
             age     min 20.0 ms  p50  2.61 s  p90  4.69 s  p99  5.16 s  max  5.21 s
             stack:
               std::_Hashtable<std::string, std::pair<std::string const, sh…:string const, shop::pricing::Rule>>>::_M_insert_unique_node  …/12/bits/hashtable.h:1719
               shop::pricing::apply  src/pricing.cc:77
      ... 4 more: 1.5 MiB, 373 pages (4.8%)

    What the copied pages were
      SHARE                      COPIED  PAGES  ORIGIN
      96.8% ███████████████▌   29.4 MiB  7,532  fork  shared since a fork
       3.1% ▌                 976.0 KiB    244  file  of a private file mapping
       0.1% ▏                  36.0 KiB      9  ksm   merged by the kernel (KSM)

    What was written to them
      SHARE                      COPIED  PAGES  CAUSE
      64.9% ██████████▍        19.7 MiB  5,050  gc         the garbage collector's mark
      17.3% ██▊                 5.3 MiB  1,350  refcount   an object's reference count
       7.9% █▎                  2.4 MiB    612  kernel     by the kernel, for a system call
       5.3% ▉                   1.6 MiB    409  data       other writable data
       3.1% ▌                 976.0 KiB    244  unknown    not known what was written
       1.5% ▎                 480.0 KiB    120  allocator  a memory allocator's bookkeeping
      unknown for 180 pages: the instruction could not be read

    Write faults that copied nothing
      reuse        12,345  no longer shared, so the page was used as it is
      zero            678  the zero page was replaced by an empty page
      first touch  90,123  an absent page was filled for the first time
      split             -  not visible to the tracepoint backend

    What the tracepoint backend cannot see
      - Pages that another process writes through ptrace, /proc/PID/mem or process_vm_writev, and pages
        that a device writes by direct I/O, are copied without an exception, so they are not counted.
      - Copies of hugetlb pages are counted as reuse.
    ");
}

#[test]
fn text_with_losses_says_so_first() {
    let text = written(&sample_with_losses(), By::Site, 3, terminal(80));
    insta::assert_snapshot!(text, @"
    lost: The records of 1,204 of 9,020 copied pages (13.3%) were lost. They are
      counted, but where they were copied is not known: they stand under [lost].
    lost: The stacks of 31 copied pages were lost: their call sites are not known.
    lost: 2 processes could not be traced: what they copied is missing from every
      figure.
    lost: 1 thread could not be traced: what they copied is missing from every
      figure.
    warning: The symbols of 3 programs could not be read: CAP_SYS_ADMIN is missing.

    35.2 MiB copied in 10.2 s, 3.4 MiB/s
      The kernel copied 9,020 pages of 4.0 KiB for 5 of 6 processes.
      71.0% of it is copy-on-read: an object's reference count or the garbage
      collector's mark was written where the program only read.
      The command 'wrk' was ended by signal 9.
      memtrace 0.1.0, tracepoint backend, stacks by frame pointer, Linux
      6.12.41-cloud-amd64 x86_64, 2026-03-14T15:09:26Z

    Processes  3 of 6; times are since tracing began
       PID  COMMAND          FORKED  EXITED    COPIED  PAGES  SHARE       NOT COPIED
      4243  gunicorn: worke  before       -  17.6 MiB  4,500  49.9% ██        15,362
             1,000 records of these lost
      4244  gunicorn: worke  before       -  12.6 MiB  3,225  35.8% █▍        15,365
             204 records of these lost
      4245  gunicorn: worke  512 ms  6.25 s   4.3 MiB  1,111  12.3% ▌         15,368
      ... 3 processes more: 736.0 KiB, 184 pages (2.0%)

    Call sites  3 of 10
      SHARE             COPIED  PAGES  CALL SITE
      56.0% ████▌     19.7 MiB  5,050  gc_collect_main
             ./Modules/gcmodule.c:1202 in libpython3.11.so.1.0
             cause gc; origin fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.10 µs  p90 2.92 µs  p99 24.2 µs  max  572 µs
             age     min 20.0 ms  p50  3.00 s  p90  5.39 s  p99  5.96 s  max  6.02 s
             heaviest of 2 stacks, 81.6%:
               update_refs (inlined)         ./Modules/gcmodule.c:390
               deduce_unreachable (inlined)  ./Modules/gcmodule.c:1103
               gc_collect_main               ./Modules/gcmodule.c:1202
               _PyObject_GC_Alloc            ./Modules/gcmodule.c:2283
               PyDict_Copy                   ./Objects/dictobject.c:2876
               context                       /srv/shop/app/context.py:31
               checkout                      /srv/shop/app/views.py:88
               dispatch_request              /srv/shop/lib/flask/app.py:1484
               _start                        ../sysdeps/x86_64/start.S:115

      15.0% █▎         5.3 MiB  1,350  checkout
             /srv/shop/app/views.py:91
             cause refcount; origin fork; in 4243, 4244; type decimal.Decimal
             latency min 1.10 µs  p50 2.11 µs  p90 2.91 µs  p99 3.10 µs  max  144 µs
             age     min 20.0 ms  p50  2.94 s  p90  5.29 s  p99  5.93 s  max  6.02 s
             stack:
               checkout          /srv/shop/app/views.py:91
               dispatch_request  /srv/shop/lib/flask/app.py:1484

      13.3% █▏         4.7 MiB  1,204  [lost]
             (record lost)
             cause unknown; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.10 µs  p90 2.92 µs  p99 3.10 µs  max  134 µs
             age     min 20.0 ms  p50  2.63 s  p90  5.24 s  p99  5.94 s  max  6.02 s
      ... 7 more: 5.5 MiB, 1,416 pages (15.7%)

    What the copied pages were
      SHARE              COPIED  PAGES  ORIGIN
      97.2% ███████▊   34.2 MiB  8,767  fork  shared since a fork
       2.7% ▎         976.0 KiB    244  file  of a private file mapping
       0.1% ▏          36.0 KiB      9  ksm   merged by the kernel (KSM)

    What was written to them
      SHARE              COPIED  PAGES  CAUSE
      56.0% ████▌      19.7 MiB  5,050  gc         the garbage collector's mark
      16.4% █▎          5.8 MiB  1,479  unknown    not known what was written
      15.0% █▎          5.3 MiB  1,350  refcount   an object's reference count
       6.8% ▌           2.4 MiB    612  kernel     by the kernel, for a system call
       4.5% ▍           1.6 MiB    409  data       other writable data
       1.3% ▏         480.0 KiB    120  allocator  a memory allocator's bookkeeping
      unknown for 180 pages: the instruction could not be read

    Write faults that copied nothing
      reuse        12,345  no longer shared, so the page was used as it is
      zero            678  the zero page was replaced by an empty page
      first touch  90,123  an absent page was filled for the first time
      split             -  not visible to the tracepoint backend

    What the tracepoint backend cannot see
      - Pages that another process writes through ptrace, /proc/PID/mem or
        process_vm_writev, and pages that a device writes by direct I/O, are copied
        without an exception, so they are not counted.
      - Copies of hugetlb pages are counted as reuse.
    ");
}

#[test]
fn text_of_a_trace_that_copied_nothing() {
    let mut profile = sample();
    profile.call_sites.clear();
    profile.command.clear();
    let not_copied = profile.totals.not_copied;
    profile.totals = Totals {
        not_copied,
        ..Totals::default()
    };
    profile.processes.truncate(1);
    profile.processes[0].copied_pages = 0;
    profile.processes[0].copied_bytes = 0;
    insta::assert_snapshot!(written(&profile, By::Site, 3, terminal(80)), @"
    Nothing was copied in 10.2 s
      The kernel copied no page for 1 traced process.
      Nothing was lost.
      memtrace 0.1.0, tracepoint backend, stacks by frame pointer, Linux
      6.12.41-cloud-amd64 x86_64, 2026-03-14T15:09:26Z

    Processes  times are since tracing began
       PID  COMMAND   FORKED  EXITED  COPIED  PAGES  SHARE           NOT COPIED
      4242  gunicorn  before       -     0 B      0   0.0%               15,359

    Write faults that copied nothing
      reuse        12,345  no longer shared, so the page was used as it is
      zero            678  the zero page was replaced by an empty page
      first touch  90,123  an absent page was filled for the first time
      split             -  not visible to the tracepoint backend

    What the tracepoint backend cannot see
      - Pages that another process writes through ptrace, /proc/PID/mem or
        process_vm_writev, and pages that a device writes by direct I/O, are copied
        without an exception, so they are not counted.
      - Copies of hugetlb pages are counted as reuse.
    ");
}

#[test]
fn main_table_by_function() {
    insta::assert_snapshot!(main_table(By::Function), @"
    Functions  3 of 8
      SHARE               COPIED  PAGES  FUNCTION
      64.9% ██████▌     19.7 MiB  5,050  gc_collect_main
             /usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0
             cause gc; origin fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.10 µs  p90 2.92 µs  p99 24.2 µs  max  572 µs
             age     min 20.0 ms  p50  3.00 s  p90  5.39 s  p99  5.96 s  max  6.02 s
             100.0%  gc_collect_main  ./Modules/gcmodule.c:1202

      17.3% █▊           5.3 MiB  1,350  checkout
             cause refcount; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.11 µs  p90 2.91 µs  p99 3.10 µs  max  144 µs
             age     min 20.0 ms  p50  2.94 s  p90  5.29 s  p99  5.93 s  max  6.02 s
             100.0%  checkout  /srv/shop/app/views.py:91

       7.9% ▊            2.4 MiB    612  sock_recv_impl
             /usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0
             cause kernel; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.08 µs  p90 2.91 µs  p99 3.10 µs  max 68.4 µs
             age     min 20.0 ms  p50  2.04 s  p90  5.22 s  p99  5.93 s  max  6.01 s
             100.0%  sock_recv_impl  ./Modules/socketmodule.c:3480
      ... 5 more: 3.0 MiB, 773 pages (9.9%)
    ");
}

#[test]
fn main_table_by_stack() {
    insta::assert_snapshot!(main_table(By::Stack), @"
    Stacks  3 of 9
      SHARE               COPIED  PAGES  STACK
      53.0% █████▎      16.1 MiB  4,123  update_refs
             cause gc; origin fork
             update_refs (inlined)         ./Modules/gcmodule.c:390
             deduce_unreachable (inlined)  ./Modules/gcmodule.c:1103
             gc_collect_main               ./Modules/gcmodule.c:1202
             _PyObject_GC_Alloc            ./Modules/gcmodule.c:2283
             PyDict_Copy                   ./Objects/dictobject.c:2876
             context                       /srv/shop/app/context.py:31
             checkout                      /srv/shop/app/views.py:88
             dispatch_request              /srv/shop/lib/flask/app.py:1484
             _start                        ../sysdeps/x86_64/start.S:115

      17.3% █▊           5.3 MiB  1,350  checkout
             cause refcount; origin fork
             checkout          /srv/shop/app/views.py:91
             dispatch_request  /srv/shop/lib/flask/app.py:1484

      11.9% █▎           3.6 MiB    927  update_refs
             cause gc; origin fork
             update_refs (inlined)  ./Modules/gcmodule.c:390
             gc_collect_main        ./Modules/gcmodule.c:1202
             idle                   /srv/shop/gunicorn.conf.py:12
      ... 6 more: 5.4 MiB, 1,385 pages (17.8%)
    ");
}

#[test]
fn main_table_by_type() {
    insta::assert_snapshot!(main_table(By::Type), @"
    Object types
      SHARE               COPIED  PAGES  OBJECT TYPE
      82.7% ████████▎   25.1 MiB  6,435  [type not known]
             cause gc 78.5%, kernel 9.5%, data 6.4%, unknown 3.8%, allocator 1.9%; origin fork 96.1%,
             file 3.8%, ksm 0.1%; in 5 processes
             latency min 1.10 µs  p50 2.10 µs  p90 2.92 µs  p99 3.10 µs  max  572 µs
             age     min 20.0 ms  p50  2.75 s  p90  5.30 s  p99  5.95 s  max  6.02 s
              78.5%  gc_collect_main  ./Modules/gcmodule.c:1202
               9.5%  sock_recv_impl  ./Modules/socketmodule.c:3480
               6.2%  std::_Hashtable<std::string…e>>>::_M_insert_unique_node  …/12/bits/hashtable.h:1719
               5.8%  in 4 call sites more

      17.3% █▊           5.3 MiB  1,350  decimal.Decimal
             cause refcount; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.11 µs  p90 2.91 µs  p99 3.10 µs  max  144 µs
             age     min 20.0 ms  p50  2.94 s  p90  5.29 s  p99  5.93 s  max  6.02 s
             100.0%  checkout  /srv/shop/app/views.py:91
    ");
}

#[test]
fn main_table_by_process() {
    insta::assert_snapshot!(main_table(By::Process), @r"
    Processes and their call sites  3 of 5
      SHARE               COPIED  PAGES  PROCESS
      45.0% ████▌       13.7 MiB  3,500  4243 gunicorn: worke
             cause gc 60.0%, refcount 20.0%, data 11.4%, kernel 8.6%; origin fork
              60.0%  gc_collect_main  ./Modules/gcmodule.c:1202
              20.0%  checkout  /srv/shop/app/views.py:91
              11.4%  std::_Hashtable<std::string…e>>>::_M_insert_unique_node  …/12/bits/hashtable.h:1719
               8.6%  sock_recv_impl  ./Modules/socketmodule.c:3480

      38.8% ███▉        11.8 MiB  3,021  4244 gunicorn: worke
             cause gc 67.9%, refcount 21.5%, kernel 10.3%, data 0.3%; origin fork 99.7%, ksm 0.3%
              67.9%  gc_collect_main  ./Modules/gcmodule.c:1202
              21.5%  checkout  /srv/shop/app/views.py:91
              10.3%  sock_recv_impl  ./Modules/socketmodule.c:3480
               0.3%  evil\u{1b}[2J\u{202e}eman\nfunction  /tmp/日本語/\u{7}.c:1

      13.9% █▍           4.2 MiB  1,080  4245 gunicorn: worke
             cause gc 83.3%, unknown 16.7%; origin fork 83.3%, file 16.7%
              83.3%  gc_collect_main  ./Modules/gcmodule.c:1202
              16.7%  libssl.so.3+0x4a1f0
      ... 2 more: 736.0 KiB, 184 pages (2.4%)
    ");
}

#[test]
fn main_table_by_file() {
    insta::assert_snapshot!(main_table(By::File), @"
    Files  3 of 8
      SHARE               COPIED  PAGES  FILE
      64.9% ██████▌     19.7 MiB  5,050  ./Modules/gcmodule.c
             cause gc; origin fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.10 µs  p90 2.92 µs  p99 24.2 µs  max  572 µs
             age     min 20.0 ms  p50  3.00 s  p90  5.39 s  p99  5.96 s  max  6.02 s
             100.0%  gc_collect_main  ./Modules/gcmodule.c:1202

      17.3% █▊           5.3 MiB  1,350  /srv/shop/app/views.py
             cause refcount; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.11 µs  p90 2.91 µs  p99 3.10 µs  max  144 µs
             age     min 20.0 ms  p50  2.94 s  p90  5.29 s  p99  5.93 s  max  6.02 s
             100.0%  checkout  /srv/shop/app/views.py:91

       7.9% ▊            2.4 MiB    612  ./Modules/socketmodule.c
             cause kernel; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.08 µs  p90 2.91 µs  p99 3.10 µs  max 68.4 µs
             age     min 20.0 ms  p50  2.04 s  p90  5.22 s  p99  5.93 s  max  6.01 s
             100.0%  sock_recv_impl  ./Modules/socketmodule.c:3480
      ... 5 more: 3.0 MiB, 773 pages (9.9%)
    ");
}

#[test]
fn main_table_by_cause() {
    insta::assert_snapshot!(main_table(By::Cause), @"
    Causes and their call sites  3 of 6
      SHARE               COPIED  PAGES  CAUSE
      64.9% ██████▌     19.7 MiB  5,050  gc
             origin fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.10 µs  p90 2.92 µs  p99 24.2 µs  max  572 µs
             age     min 20.0 ms  p50  3.00 s  p90  5.39 s  p99  5.96 s  max  6.02 s
             100.0%  gc_collect_main  ./Modules/gcmodule.c:1202

      17.3% █▊           5.3 MiB  1,350  refcount
             origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.11 µs  p90 2.91 µs  p99 3.10 µs  max  144 µs
             age     min 20.0 ms  p50  2.94 s  p90  5.29 s  p99  5.93 s  max  6.02 s
             100.0%  checkout  /srv/shop/app/views.py:91

       7.9% ▊            2.4 MiB    612  kernel
             origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.08 µs  p90 2.91 µs  p99 3.10 µs  max 68.4 µs
             age     min 20.0 ms  p50  2.04 s  p90  5.22 s  p99  5.93 s  max  6.01 s
             100.0%  sock_recv_impl  ./Modules/socketmodule.c:3480
      ... 3 more: 3.0 MiB, 773 pages (9.9%)
    ");
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for width in [72, 80, 100, 160, 250] {
        for by in ALL {
            for line in written(&sample_with_losses(), by, 20, terminal(width)).lines() {
                assert!(screen::width(line) <= width, "{by:?} at {width}: {line:?}");
            }
        }
    }
}

#[test]
fn names_are_whole_in_a_file() {
    for by in ALL {
        let text = written(&sample(), by, 20, Screen::of_a_file());
        assert!(!text.contains('…'), "{by:?}");
    }
    let text = written(&sample(), By::Site, 20, Screen::of_a_file());
    let site = &sample().call_sites[3].site;
    assert!(site.function.len() > 150 && text.contains(&*site.function));
}

#[test]
fn nothing_foreign_reaches_the_terminal_unescaped() {
    for by in ALL {
        let text = written(&sample(), by, 20, terminal(160));
        let bad = text
            .chars()
            .find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert_eq!(bad, None, "{by:?}");
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{by:?}");
    }
}

#[test]
fn colours_do_not_move_anything() {
    let plain = written(&sample_with_losses(), By::Site, 20, terminal(80));
    let coloured = Screen {
        color: true,
        ..terminal(80)
    };
    let coloured = written(&sample_with_losses(), By::Site, 20, coloured);
    assert!(coloured.starts_with("\x1b["));
    let mut stripped = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        stripped.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    assert_eq!(stripped + rest, plain);
}
