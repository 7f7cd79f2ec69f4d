use super::*;
use clap::ValueEnum as _;

use crate::foreign::escape;
use crate::profile::sample::{
    sample, sample_cut, sample_pending, sample_with_losses, sample_with_memory,
};
use crate::profile::{Container, InterpreterSeen, Process, RuntimeSeen, Totals};

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
    let (_, from_processes) = text.split_once("\n\nProcesses  ").unwrap();
    let (_, from_here) = from_processes.split_once("\n\n").unwrap();
    from_here
        .split("\n\nWhat the copied")
        .next()
        .unwrap()
        .to_owned()
}

#[test]
#[expect(clippy::too_many_lines, reason = "the report is as long as that")]
fn text_at_80_columns() {
    insta::assert_snapshot!(written(&sample(), By::Site, 20, terminal(80)), @r"
    27.2 MiB copied in 10.2 s, 2.7 MiB/s
      More than was copied is new memory: 90,123 absent pages (352.0 MiB at least)
      were filled for the first time, which is no copy.
      75% of what was copied was only read: 59% reference counts (mostly `str`, in
      `Catalog.render`, catalog.py:212), 16% garbage collection; for 3% it is not
      known.
      20% was written to: 9% written by the kernel, 6% data, 3% fields of objects,
      2% something else.
      Of a sample of 5,000 of 6,000 copied pages, 4,117 (82%) still equal the
      parent's: they were copied for nothing. 698 pages could not be compared: their
      process had ended.
      The kernel copied 6,962 pages of 4.0 KiB for 5 of 6 processes.
      2 processes had been forked before the trace began: what they had copied until
      then is not in these figures.
      The command 'wrk' exited with status 0.
      Nothing was lost.
      memtrace 0.1.0, tracepoint backend, stacks by frame pointer, Linux
      6.12.41-cloud-amd64 x86_64, 2026-03-14T15:09:26Z

    What was written to the copied pages
      SHARE              COPIED  PAGES  CAUSE
      61.3% ████▉      16.7 MiB  4,266  refcount   an object's reference count
      15.9% █▎          4.3 MiB  1,110  gc         the garbage collector's mark
       8.8% ▊           2.4 MiB    612  kernel     by the kernel, for a system call
       6.7% ▌           1.8 MiB    464  data       other writable data
       3.0% ▎         840.0 KiB    210  object     a field of an object
       2.6% ▎         720.0 KiB    180  unknown    not known what was written
       1.7% ▏         480.0 KiB    120  allocator  a memory allocator's bookkeeping
      20.5 MiB (75.4%) is copy-on-read, of refcount and gc: the program only read
      when the page was copied; what it wrote there later is not seen
      refcount by instruction for 130 pages: told only by how the instruction
      writes; a counter of the program's own would look the same
      unknown for 180 pages: the instruction could not be read

    Which objects were written to
      SHARE              COPIED  PAGES  CAUSE     OBJECT TYPE
      35.9% ██▉         9.8 MiB  2,500  refcount  str
      11.3% ▉           3.1 MiB    787  refcount  dict
      10.5% ▉           2.9 MiB    730  gc        dict
       6.1% ▌           1.7 MiB    425  refcount  decimal.Decimal
       4.3% ▍           1.2 MiB    300  refcount  shop.models.Product
       3.4% ▎         960.0 KiB    240  gc        function
       2.2% ▏         600.0 KiB    150  object    dict
       1.7% ▏         460.0 KiB    115  refcount  tuple
       0.9% ▏         240.0 KiB     60  object    shop.sessions.Session
       0.1% ▏          36.0 KiB      9  refcount  <script>alert(1)<…éééééééééééééééé

    Processes  times are since tracing began
       PID  COMMAND          FORKED  EXITED     COPIED  SHARE   ONLY READ  UNCHANGED
      4243  gunicorn: worke  before       -   12.5 MiB  46.1%       74.1%      84.0%
      4244  gunicorn: worke  before       -   11.4 MiB  42.0%       82.1%      80.6%
      4245  gunicorn: worke  512 ms  6.25 s    2.5 MiB   9.3%       72.1%          -
      4242  gunicorn         before       -  480.0 KiB   1.7%        0.0%          -
      4246  sh               7.00 s  7.02 s  256.0 KiB   0.9%        0.0%          -
      4247  report.py        10.0 s       -        0 B   0.0%           -          -
      CPython 3.11 in 4242, 4243, 4244, 4245
      CPython 3.15 in 4247, frames missing: its layout is not known to this memtrace

    Call sites
      SHARE              COPIED  PAGES  CALL SITE
      53.2% ████▎      14.5 MiB  3,702  Catalog.render  catalog.py:212
             /srv/shop/app/catalog.py:212
             cause refcount; types str 67.5%, dict 21.3%, shop.models.Product 8.1%,
             tuple 3.1%; origin fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.09 µs  p90 2.91 µs  p99 3.10 µs  max  277 µs
             age     min 20.0 ms  p50  2.53 s  p90  5.22 s  p99  5.94 s  max  6.02 s
             stack:
                  unicode_hash               ./Objects/unicodeobject.c:11230
                  _PyEval_EvalFrameDefault   Python/ceval.c:4980
               py Catalog.render             /srv/shop/app/catalog.py:212
               py checkout                   /srv/shop/app/views.py:91
               py Flask.dispatch_request     /srv/shop/lib/flask/app.py:1484
                  ... 5 native frames
               py SyncWorker.handle_request  …/shop/lib/gunicorn/workers/sync.py:177
               py SyncWorker.run          /srv/shop/lib/gunicorn/workers/sync.py:130
                  ... 3 native frames

      13.9% █▏          3.8 MiB    970  context  context.py:31
             /srv/shop/app/context.py:31
             cause gc; types dict 75.3%, function 24.7%; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.06 µs  p90 2.91 µs  p99 3.10 µs  max 79.0 µs
             age     min 20.0 ms  p50  2.11 s  p90  4.75 s  p99  5.90 s  max  6.01 s
             stack:
                  update_refs (inlined)         ./Modules/gcmodule.c:390
                  deduce_unreachable (inlined)  ./Modules/gcmodule.c:1103
                  gc_collect_main               ./Modules/gcmodule.c:1202
                  ... 3 native frames
               py context                       /srv/shop/app/context.py:31
               py checkout                      /srv/shop/app/views.py:91
               py Flask.dispatch_request        /srv/shop/lib/flask/app.py:1484
                  ... 10 more

       8.8% ▊           2.4 MiB    612  recv  socket.py:706
             for `checkout`, /srv/shop/app/views.py:91
             /usr/lib/python3.11/socket.py:706
             cause kernel; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.08 µs  p90 2.91 µs  p99 3.10 µs  max 68.4 µs
             age     min 20.0 ms  p50  2.04 s  p90  5.22 s  p99  5.93 s  max  6.01 s
             stack:
                  sock_recv_impl             ./Modules/socketmodule.c:3480
                  _PyEval_EvalFrameDefault   Python/ceval.c:4980
               py recv                       /usr/lib/python3.11/socket.py:706
               py checkout                   /srv/shop/app/views.py:91
               py Flask.dispatch_request     /srv/shop/lib/flask/app.py:1484
                  ... 5 native frames
               py SyncWorker.handle_request  …/shop/lib/gunicorn/workers/sync.py:177
               py SyncWorker.run          /srv/shop/lib/gunicorn/workers/sync.py:130
                  ... 3 native frames

       6.1% ▌           1.7 MiB    425  Catalog.render  catalog.py:219
             /srv/shop/app/catalog.py:219
             cause refcount; type decimal.Decimal; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.10 µs  p90 2.91 µs  p99 3.10 µs  max 45.3 µs
             age     min 20.0 ms  p50  2.78 s  p90  4.99 s  p99  5.48 s  max  5.54 s
             stack:
                  unicode_hash               ./Objects/unicodeobject.c:11230
                  _PyEval_EvalFrameDefault   Python/ceval.c:4980
               py Catalog.render             /srv/shop/app/catalog.py:219
               py checkout                   /srv/shop/app/views.py:91
               py Flask.dispatch_request     /srv/shop/lib/flask/app.py:1484
                  ... 5 native frames
               py SyncWorker.handle_request  …/shop/lib/gunicorn/workers/sync.py:177
               py SyncWorker.run          /srv/shop/lib/gunicorn/workers/sync.py:130
                  ... 3 native frames

       5.7% ▌           1.6 MiB    400  std::_Hashtable<std::s…_M_insert_unique_node
             /usr/include/c++/12/bits/hashtable.h:1719 in /srv/shop/lib/_pricing.so
             cause data; origin fork; in 4243
             latency min 1.10 µs  p50 2.06 µs  p90 2.91 µs  p99 3.10 µs  max 45.3 µs
             age     min 20.0 ms  p50  2.61 s  p90  4.69 s  p99  5.16 s  max  5.21 s
             stack:
               std::_Hashtable<std:…M_insert_unique_node  …/12/bits/hashtable.h:1719
               shop::pricing::apply  src/pricing.cc:77

       3.0% ▎         840.0 KiB    210  Session.touch  sessions.py:47
             /srv/shop/app/sessions.py:47
             cause object; fields dict+24 71.4%, shop.sessions.Session-8 28.6%;
             origin fork; in 4244
             latency min 1.10 µs  p50 2.02 µs  p90 2.88 µs  p99 3.10 µs  max 13.7 µs
             age     min 20.0 ms  p50  696 ms  p90  1.68 s  p99  1.93 s  max  1.96 s
             stack:
                  _PyEval_EvalFrameDefault   Python/ceval.c:4980
               py Session.touch              /srv/shop/app/sessions.py:47
               py checkout                   /srv/shop/app/views.py:91
               py Flask.dispatch_request     /srv/shop/lib/flask/app.py:1484
                  ... 5 native frames
               py SyncWorker.handle_request  …/shop/lib/gunicorn/workers/sync.py:177
               py SyncWorker.run          /srv/shop/lib/gunicorn/workers/sync.py:130
                  ... 3 native frames

       2.6% ▎         720.0 KiB    180  libssl.so.3+0x4a1f0
             /usr/lib/x86_64-linux-gnu/libssl.so.3 (no symbol)
             cause unknown (the instruction could not be read); origin file; in 4245
             latency min 1.10 µs  p50 1.99 µs  p90 2.91 µs  p99 3.10 µs  max 13.7 µs
             age     min 20.0 ms  p50  1.18 s  p90  2.11 s  p99  2.33 s  max  2.35 s
             stack:
               libssl.so.3+0x4a1f0 (no symbol)
               [unknown] (code made at run time)
               ... the code has no unwind tables

       2.0% ▏         560.0 KiB    140  idle  gunicorn.conf.py:12
             /srv/shop/gunicorn.conf.py:12
             cause gc; origin fork; in 4245
             latency min 1.10 µs  p50 1.95 µs  p90 2.88 µs  p99 3.10 µs  max 13.7 µs
             age     min 20.0 ms  p50  917 ms  p90  1.65 s  p99  1.81 s  max  1.83 s
             stack:
                  update_refs (inlined)         ./Modules/gcmodule.c:390
                  deduce_unreachable (inlined)  ./Modules/gcmodule.c:1103
                  gc_collect_main               ./Modules/gcmodule.c:1202
                  ... 3 native frames
               py idle                          /srv/shop/gunicorn.conf.py:12
               py checkout                      /srv/shop/app/views.py:91
               py Flask.dispatch_request        /srv/shop/lib/flask/app.py:1484
                  ... 10 more

       1.9% ▏         520.0 KiB    130  std::_Sp_counted_base<…y)2>::_M_add_ref_copy
             /usr/include/c++/12/bits/shared_ptr_base.h:152 in _pricing.so
             cause refcount (by instruction); origin fork; in 4243
             latency min 1.10 µs  p50 1.91 µs  p90 2.88 µs  p99 3.10 µs  max 13.7 µs
             age     min 20.0 ms  p50  852 ms  p90  1.53 s  p99  1.68 s  max  1.70 s
             stack:
               std::_Sp_counted_ba…2>::_M_add_ref_copy  …/bits/shared_ptr_base.h:152
               shop::pricing::lookup  src/pricing.cc:141

       1.7% ▏         480.0 KiB    120  _PyObject_Free
             ./Objects/obmalloc.c:1834 in libpython3.11.so.1.0
             cause allocator; origin fork; in 4242
             latency min 1.10 µs  p50 1.99 µs  p90 2.91 µs  p99 3.10 µs  max 13.7 µs
             age     min 20.0 ms  p50  787 ms  p90  1.41 s  p99  1.55 s  max  1.57 s

       0.9% ▏         256.0 KiB     64  _dl_relocate_object
             ./elf/dl-reloc.c:288 in /lib64/ld-linux-x86-64.so.2
             cause data; origin file; in 4246
             latency min 1.10 µs  p50 1.91 µs  p90 2.88 µs  p99 3.10 µs  max 3.10 µs

       0.1% ▏          36.0 KiB      9  evil\u{1b}[2J\u{202e}e…nfunction  \u{7}.py:1
             /tmp/日本語/\u{7}.py:1
             cause refcount; type <script>alert(1)</sc…ééééééééééééééééééé; origin
             ksm; in 4244
             age     min 20.0 ms  p50 72.0 ms  p90  124 ms  p99  124 ms  max  124 ms
             stack:
               py evil\u{1b}[2J\u{202e}eman\nfunction  /tmp/日本語/\u{7}.py:1
               py [unknown] (code object not read)

    What the copied pages were
      SHARE              COPIED  PAGES  ORIGIN
      96.4% ███████▊   26.2 MiB  6,709  fork  shared since a fork
       3.5% ▎         976.0 KiB    244  file  of a private file mapping
       0.1% ▏          36.0 KiB      9  ksm   merged by the kernel (KSM)

    Write faults that copied nothing
      reuse        12,345  no longer shared, so the page was used as it is
      zero            678  the zero page was replaced by an empty page
      first touch  90,123  an absent page was filled for the first time
      split             -  not visible to the tracepoint backend
      elsewhere        27  another thread or the kernel had settled it

    What the tracepoint backend cannot see
      - Pages that another process writes through ptrace, /proc/PID/mem or
        process_vm_writev, and pages that a device writes by direct I/O, are copied
        without an exception, so they are not counted.
      - Copies of hugetlb pages are counted as reuse.
    ");
}

#[test]
fn text_at_120_columns() {
    insta::assert_snapshot!(written(&sample(), By::Site, 2, terminal(120)), @r"
    27.2 MiB copied in 10.2 s, 2.7 MiB/s
      More than was copied is new memory: 90,123 absent pages (352.0 MiB at least) were filled for the
      first time, which is no copy.
      75% of what was copied was only read: 59% reference counts (mostly `str`, in `Catalog.render`,
      catalog.py:212), 16% garbage collection; for 3% it is not known.
      20% was written to: 9% written by the kernel, 6% data, 3% fields of objects, 2% something else.
      Of a sample of 5,000 of 6,000 copied pages, 4,117 (82%) still equal the parent's: they were copied
      for nothing. 698 pages could not be compared: their process had ended.
      The kernel copied 6,962 pages of 4.0 KiB for 5 of 6 processes.
      2 processes had been forked before the trace began: what they had copied until then is not in
      these figures.
      The command 'wrk' exited with status 0.
      Nothing was lost.
      memtrace 0.1.0, tracepoint backend, stacks by frame pointer, Linux 6.12.41-cloud-amd64 x86_64,
      2026-03-14T15:09:26Z

    What was written to the copied pages
      SHARE                  COPIED  PAGES  CAUSE
      61.3% ███████▍       16.7 MiB  4,266  refcount   an object's reference count
      15.9% █▉              4.3 MiB  1,110  gc         the garbage collector's mark
       8.8% █               2.4 MiB    612  kernel     by the kernel, for a system call
       6.7% ▊               1.8 MiB    464  data       other writable data
       3.0% ▍             840.0 KiB    210  object     a field of an object
       2.6% ▎             720.0 KiB    180  unknown    not known what was written
       1.7% ▎             480.0 KiB    120  allocator  a memory allocator's bookkeeping
      20.5 MiB (75.4%) is copy-on-read, of refcount and gc: the program only read when the page was
      copied; what it wrote there later is not seen
      refcount by instruction for 130 pages: told only by how the instruction writes; a counter of the
      program's own would look the same
      unknown for 180 pages: the instruction could not be read

    Which objects were written to  2 of 10
      SHARE                COPIED  PAGES  CAUSE     OBJECT TYPE
      35.9% ████▎         9.8 MiB  2,500  refcount  str
      11.3% █▍            3.1 MiB    787  refcount  dict
      ... 8 more: 7.9 MiB, 2,029 pages (29.1%)

    Processes  2 of 6; times are since tracing began
       PID  COMMAND          FORKED  EXITED    COPIED  PAGES  SHARE               ONLY READ  UNCHANGED  NOT COPIED
      4243  gunicorn: worke  before       -  12.5 MiB  3,210  46.1% █████▌            74.1%      84.0%      15,371
      4244  gunicorn: worke  before       -  11.4 MiB  2,923  42.0% █████             82.1%      80.6%      15,374
      ... 4 processes more: 3.2 MiB, 829 pages (11.9%)
      CPython 3.11 in 4242, 4243, 4244, 4245
      CPython 3.15 in 4247, frames missing: its layout is not known to this memtrace

    Call sites  2 of 12
      SHARE                 COPIED  PAGES  CALL SITE
      53.2% ██████▍       14.5 MiB  3,702  Catalog.render  catalog.py:212
             /srv/shop/app/catalog.py:212
             cause refcount; types str 67.5%, dict 21.3%, shop.models.Product 8.1%, tuple 3.1%; origin
             fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.09 µs  p90 2.91 µs  p99 3.10 µs  max  277 µs
             age     min 20.0 ms  p50  2.53 s  p90  5.22 s  p99  5.94 s  max  6.02 s
             stack:
                  unicode_hash               ./Objects/unicodeobject.c:11230
                  _PyEval_EvalFrameDefault   Python/ceval.c:4980
               py Catalog.render             /srv/shop/app/catalog.py:212
               py checkout                   /srv/shop/app/views.py:91
               py Flask.dispatch_request     /srv/shop/lib/flask/app.py:1484
                  ... 5 native frames
               py SyncWorker.handle_request  /srv/shop/lib/gunicorn/workers/sync.py:177
               py SyncWorker.run             /srv/shop/lib/gunicorn/workers/sync.py:130
                  ... 3 native frames

      13.9% █▋             3.8 MiB    970  context  context.py:31
             /srv/shop/app/context.py:31
             cause gc; types dict 75.3%, function 24.7%; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.06 µs  p90 2.91 µs  p99 3.10 µs  max 79.0 µs
             age     min 20.0 ms  p50  2.11 s  p90  4.75 s  p99  5.90 s  max  6.01 s
             stack:
                  update_refs (inlined)         ./Modules/gcmodule.c:390
                  deduce_unreachable (inlined)  ./Modules/gcmodule.c:1103
                  gc_collect_main               ./Modules/gcmodule.c:1202
                  ... 3 native frames
               py context                       /srv/shop/app/context.py:31
               py checkout                      /srv/shop/app/views.py:91
               py Flask.dispatch_request        /srv/shop/lib/flask/app.py:1484
                  ... 10 more
      ... 10 more: 8.9 MiB, 2,290 pages (32.9%)

    What the copied pages were
      SHARE                  COPIED  PAGES  ORIGIN
      96.4% ███████████▋   26.2 MiB  6,709  fork  shared since a fork
       3.5% ▍             976.0 KiB    244  file  of a private file mapping
       0.1% ▏              36.0 KiB      9  ksm   merged by the kernel (KSM)

    Write faults that copied nothing
      reuse        12,345  no longer shared, so the page was used as it is
      zero            678  the zero page was replaced by an empty page
      first touch  90,123  an absent page was filled for the first time
      split             -  not visible to the tracepoint backend
      elsewhere        27  another thread or the kernel had settled it

    What the tracepoint backend cannot see
      - Pages that another process writes through ptrace, /proc/PID/mem or process_vm_writev, and pages
        that a device writes by direct I/O, are copied without an exception, so they are not counted.
      - Copies of hugetlb pages are counted as reuse.
    ");
}

#[test]
fn text_with_memory_and_roles() {
    let profile = sample_with_memory();
    crate::profile::sums::check(&profile).unwrap();
    let text = written(&profile, By::Site, 2, terminal(100));
    let until = text.find("What was written to").unwrap();
    insta::assert_snapshot!(text[..until], @r"
    27.2 MiB copied in 10.2 s, 2.7 MiB/s
      More than was copied is new memory: 90,123 absent pages (352.0 MiB at least) were filled for the
      first time, which is no copy.
      75% of what was copied was only read: 59% reference counts (mostly `str`, in `Catalog.render`,
      catalog.py:212), 16% garbage collection; for 3% it is not known.
      20% was written to: 9% written by the kernel, 6% data, 3% fields of objects, 2% something else.
      Of a sample of 5,000 of 6,000 copied pages, 4,117 (82%) still equal the parent's: they were copied
      for nothing. 698 pages could not be compared: their process had ended.
      The kernel copied 6,962 pages of 4.0 KiB for 5 of 6 processes.
      The forked worker shared 60.0 MiB at its fork, 58.7 MiB after 1.00 s, and 57.5 MiB at the last
      look, which could still be lost.
      Half of what a worker copies, it copies in its first 400 ms; 95% within 12.0 s.
      4243 had 8.0 MiB of 68.0 MiB private before tracing began, and another one 8.0 MiB; the copies
      among that were not seen. Restart one worker, or trace from the start, to see them.
      Copying took 20.9 ms of 1.25 s of processor time that the copying processes had (1.7%).
      The command 'wrk' exited with status 0.
      Nothing was lost.
      memtrace 0.1.0, tracepoint backend, stacks by frame pointer, Linux 6.12.41-cloud-amd64 x86_64,
      2026-03-14T15:09:26Z
    ");
    let (from, to) = (
        text.find("What the processes").unwrap(),
        text.find("Call sites").unwrap(),
    );
    insta::assert_snapshot!(text[from..to], @r"
    What the processes are there for
      ROLE              PROCESSES  GENERATIONS  ENDED     COPIED  EACH, MEDIAN   THE MOST
      gunicorn master           1            1      0  480.0 KiB     480.0 KiB  480.0 KiB
      gunicorn: worker          3            1      1   26.5 MiB      11.4 MiB   12.5 MiB
      sh helper                 1            1      1  256.0 KiB     256.0 KiB  256.0 KiB
      report.py helper          1            1      0        0 B           0 B        0 B

    When  from 0 to 10.2 s
      gunicorn master   copied    ▃█    at most 175.6 KiB/s
                        shared   ██▇▆▆  60.0 MiB each at first, 40.0 MiB at the end
      gunicorn: worker  copied    ▃█    at most 9.7 MiB/s
                        shared   ██▇▆▆  60.0 MiB each at first, 40.0 MiB at the end
      sh helper         copied    ▃█    at most 93.7 KiB/s

    Where private memory came from  between the first and the last look
      gunicorn master: private memory +2.5 MiB: +480.0 KiB copied, +3.0 MiB new memory, -1.0 MiB given
      back or swapped out, nothing unexplained
      gunicorn: worker: private memory +32.5 MiB: +26.5 MiB copied, +9.0 MiB new memory, -3.0 MiB given
      back or swapped out, nothing unexplained
      4242 had resident at the end: program 3.0 MiB (1.0 MiB private), anonymous 39.0 MiB (9.0 MiB
      private)
      Memory was looked at every 2.50 s and not every 1.00 s: reading it takes long, and memtrace takes
      1% of a processor for it at most.
    ");
}

#[test]
fn text_with_losses_says_so_first() {
    let text = written(&sample_with_losses(), By::Site, 2, terminal(80));
    insta::assert_snapshot!(text, @r"
    lost: The records of 1,204 of 8,197 copied pages (14.7%) were lost. They are
      counted, but where they were copied is not known: they stand under [lost].
    lost: The stacks of 31 copied pages were lost: their call sites are not known.
    lost: 2 processes could not be traced: what they copied is missing from every
      figure.
    lost: 1 thread could not be traced: what they copied is missing from every
      figure.
    warning: The symbols of 3 programs could not be read: CAP_SYS_ADMIN is missing.

    32.0 MiB copied in 10.2 s, 3.1 MiB/s
      More than was copied is new memory: 90,123 absent pages (352.0 MiB at least)
      were filled for the first time, which is no copy.
      64% of what was copied was only read: 50% reference counts (mostly `str`, in
      `Catalog.render`, catalog.py:212), 14% garbage collection; for 17% it is not
      known.
      17% was written to: 7% written by the kernel, 6% data, 3% fields of objects,
      1% something else.
      Of a sample of 5,000 of 6,000 copied pages, 4,117 (82%) still equal the
      parent's: they were copied for nothing. 698 pages could not be compared: their
      process had ended.
      The kernel copied 8,197 pages of 4.0 KiB for 5 of 6 processes.
      2 processes had been forked before the trace began: what they had copied until
      then is not in these figures.
      The command 'wrk' was ended by signal 9.
      memtrace 0.1.0, tracepoint backend, stacks by frame pointer, Linux
      6.12.41-cloud-amd64 x86_64, 2026-03-14T15:09:26Z

    What was written to the copied pages
      SHARE              COPIED  PAGES  CAUSE
      52.0% ████▏      16.7 MiB  4,266  refcount   an object's reference count
      17.3% █▍          5.5 MiB  1,415  unknown    not known what was written
      13.5% █▏          4.3 MiB  1,110  gc         the garbage collector's mark
       7.5% ▋           2.4 MiB    612  kernel     by the kernel, for a system call
       5.7% ▌           1.8 MiB    464  data       other writable data
       2.6% ▎         840.0 KiB    210  object     a field of an object
       1.5% ▏         480.0 KiB    120  allocator  a memory allocator's bookkeeping
      20.5 MiB (64.0%) is copy-on-read, of refcount and gc: the program only read
      when the page was copied; what it wrote there later is not seen
      refcount by instruction for 130 pages: told only by how the instruction
      writes; a counter of the program's own would look the same
      unknown for 211 pages: the instruction could not be read
      unknown for 1,204 pages: the record of the copy was lost

    Which objects were written to  2 of 10
      SHARE            COPIED  PAGES  CAUSE     OBJECT TYPE
      30.5% ██▌       9.8 MiB  2,500  refcount  str
       9.6% ▊         3.1 MiB    787  refcount  dict
      ... 8 more: 7.9 MiB, 2,029 pages (24.8%)

    Processes  2 of 6; times are since tracing began
       PID  COMMAND          FORKED  EXITED    COPIED  SHARE   ONLY READ  UNCHANGED
      4243  gunicorn: worke  before       -  16.4 MiB  51.4%       56.5%      84.0%
             1,000 records of these lost
      4244  gunicorn: worke  before       -  12.2 MiB  38.1%       76.8%      80.6%
             204 records of these lost
      ... 4 processes more: 3.4 MiB, 860 pages (10.5%)
      CPython 3.11 in 4242, 4243, 4244, 4245
      CPython 3.15 in 4247, frames missing: its layout is not known to this memtrace

    Call sites  2 of 14
      SHARE             COPIED  PAGES  CALL SITE
      45.2% ███▋      14.5 MiB  3,702  Catalog.render  catalog.py:212
             /srv/shop/app/catalog.py:212
             cause refcount; types str 67.5%, dict 21.3%, shop.models.Product 8.1%,
             tuple 3.1%; origin fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.09 µs  p90 2.91 µs  p99 3.10 µs  max  277 µs
             age     min 20.0 ms  p50  2.53 s  p90  5.22 s  p99  5.94 s  max  6.02 s
             stack:
                  unicode_hash               ./Objects/unicodeobject.c:11230
                  _PyEval_EvalFrameDefault   Python/ceval.c:4980
               py Catalog.render             /srv/shop/app/catalog.py:212
               py checkout                   /srv/shop/app/views.py:91
               py Flask.dispatch_request     /srv/shop/lib/flask/app.py:1484
                  ... 5 native frames
               py SyncWorker.handle_request  …/shop/lib/gunicorn/workers/sync.py:177
               py SyncWorker.run          /srv/shop/lib/gunicorn/workers/sync.py:130
                  ... 3 native frames

      14.7% █▏         4.7 MiB  1,204  [lost]
             (record lost)
             cause unknown (the record of the copy was lost); origin fork; in 4243,
             4244
             latency min 1.10 µs  p50 2.10 µs  p90 2.92 µs  p99 3.10 µs  max  134 µs
             age     min 20.0 ms  p50  2.63 s  p90  5.24 s  p99  5.94 s  max  6.02 s
      ... 12 more: 12.9 MiB, 3,291 pages (40.1%)

    What the copied pages were
      SHARE              COPIED  PAGES  ORIGIN
      96.9% ███████▊   31.0 MiB  7,944  fork  shared since a fork
       3.0% ▎         976.0 KiB    244  file  of a private file mapping
       0.1% ▏          36.0 KiB      9  ksm   merged by the kernel (KSM)

    Write faults that copied nothing
      reuse        12,345  no longer shared, so the page was used as it is
      zero            678  the zero page was replaced by an empty page
      first touch  90,123  an absent page was filled for the first time
      split             -  not visible to the tracepoint backend
      elsewhere        27  another thread or the kernel had settled it

    What the tracepoint backend cannot see
      - Pages that another process writes through ptrace, /proc/PID/mem or
        process_vm_writev, and pages that a device writes by direct I/O, are copied
        without an exception, so they are not counted.
      - Copies of hugetlb pages are counted as reuse.
    ");
}

#[test]
fn text_of_a_trace_that_goes_on_says_what_is_still_to_come() {
    let text = written(&sample_pending(), By::Site, 20, terminal(80));
    let line = |part: &str| text.lines().position(|line| line.contains(part)).unwrap();
    let lines = |from, n| {
        let lines: Vec<_> = text.lines().skip(from).take(n).collect();
        lines.join("\n")
    };
    insta::assert_snapshot!(lines(line("for 5 of 6 processes"), 4), @"
    The kernel copied 7,212 pages of 4.0 KiB for 5 of 6 processes.
    The records of 250 copied pages were still on their way: they are listed as
    [pending].
    2 processes had been forked before the trace began: what they had copied until
    ");
    insta::assert_snapshot!(lines(line(" 250  [pending]"), 3), @"
    3.5% ▎         1000.0 KiB    250  [pending]
          (record still on its way)
          cause unknown (its record, or its stack's name, was still on its way);
    ");
    insta::assert_snapshot!(lines(line("unknown for 250"), 1), @"  unknown for 250 pages: its record, or its stack's name, was still on its way");
    let mut one = sample_pending();
    one.totals.pending = 1;
    let text = written(&one, By::Site, 20, terminal(80));
    assert!(text.contains("The record of 1 copied page was still on its way"));
    assert!(!written(&sample(), By::Site, 20, terminal(80)).contains("on its way"));
}

#[test]
fn a_stack_that_is_not_whole_says_why() {
    let text = written(&sample_cut(), By::Site, 20, terminal(80));
    let (_, sites) = text.split_once("\nCall sites").unwrap();
    insta::assert_snapshot!(sites.split("\n\nWhat the copied").next().unwrap(), @"

    SHARE              COPIED  PAGES  CALL SITE
    66.7% █████▍    800.0 KiB    200  store  app.py:28
           /srv/app/app.py:28
           cause data; origin fork; in 4242
           latency min 1.10 µs  p50 2.02 µs  p90 2.88 µs  p99 3.10 µs  max 24.2 µs
           age     min 20.0 ms  p50  1.31 s  p90  2.35 s  p99  2.58 s  max  2.61 s
           stack:
             copy_nonoverlapping (inlined)  src/copy.rs:7
             store                          src/store.rs:70
             ... its callers were not taken, or got lost

    33.3% ██▋       400.0 KiB    100  Catalog.render  app.py:28
           /srv/app/app.py:28
           cause refcount; type str; origin fork; in 4242
           latency min 1.10 µs  p50 2.02 µs  p90 2.77 µs  p99 3.10 µs  max 13.7 µs
           age     min 20.0 ms  p50  657 ms  p90  1.18 s  p99  1.29 s  max  1.31 s
           stack:
             py Catalog.render  /srv/app/app.py:28
             py checkout        /srv/app/views.py:91
                ... not all of Python's frames could be taken
    ");
}

#[test]
fn text_of_a_trace_that_copied_nothing() {
    let mut profile = sample();
    profile.call_sites.clear();
    profile.types.clear();
    profile.command.clear();
    let not_copied = profile.totals.not_copied;
    profile.totals = Totals {
        not_copied,
        ..Totals::default()
    };
    profile.processes.truncate(1);
    profile.processes[0].copied_pages = 0;
    profile.processes[0].copied_bytes = 0;
    insta::assert_snapshot!(written(&profile, By::Site, 3, terminal(80)), @r"
    Nothing was copied in 10.2 s
      More than was copied is new memory: 90,123 absent pages (352.0 MiB at least)
      were filled for the first time, which is no copy.
      The kernel copied no page for 1 traced process.
      Nothing was lost.
      memtrace 0.1.0, tracepoint backend, stacks by frame pointer, Linux
      6.12.41-cloud-amd64 x86_64, 2026-03-14T15:09:26Z

    Processes
       PID  COMMAND   COPIED  PAGES  SHARE           NOT COPIED
      4242  gunicorn     0 B      0   0.0%               15,368
      CPython 3.11 in 4242

    Write faults that copied nothing
      reuse        12,345  no longer shared, so the page was used as it is
      zero            678  the zero page was replaced by an empty page
      first touch  90,123  an absent page was filled for the first time
      split             -  not visible to the tracepoint backend
      elsewhere        27  another thread or the kernel had settled it

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
    Functions  3 of 11
      SHARE               COPIED  PAGES  FUNCTION
      59.3% █████▉      16.1 MiB  4,127  Catalog.render
             /srv/shop/app/catalog.py
             cause refcount; origin fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.09 µs  p90 2.91 µs  p99 3.10 µs  max  277 µs
             age     min 20.0 ms  p50  2.56 s  p90  5.19 s  p99  5.93 s  max  6.02 s
              89.7%  Catalog.render  /srv/shop/app/catalog.py:212
              10.3%  Catalog.render  /srv/shop/app/catalog.py:219

      13.9% █▍           3.8 MiB    970  context
             /srv/shop/app/context.py
             cause gc; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.06 µs  p90 2.91 µs  p99 3.10 µs  max 79.0 µs
             age     min 20.0 ms  p50  2.11 s  p90  4.75 s  p99  5.90 s  max  6.01 s
             100.0%  context  /srv/shop/app/context.py:31

       8.8% ▉            2.4 MiB    612  recv
             /usr/lib/python3.11/socket.py
             cause kernel; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.08 µs  p90 2.91 µs  p99 3.10 µs  max 68.4 µs
             age     min 20.0 ms  p50  2.04 s  p90  5.22 s  p99  5.93 s  max  6.01 s
             100.0%  recv  /usr/lib/python3.11/socket.py:706
      ... 8 more: 4.9 MiB, 1,253 pages (18.0%)
    ");
}

#[test]
fn main_table_by_stack() {
    insta::assert_snapshot!(main_table(By::Stack), @"
    Stacks  3 of 12
      SHARE               COPIED  PAGES  STACK
      53.2% █████▍      14.5 MiB  3,702  unicode_hash
             cause refcount; origin fork
                unicode_hash               ./Objects/unicodeobject.c:11230
                _PyEval_EvalFrameDefault   Python/ceval.c:4980
             py Catalog.render             /srv/shop/app/catalog.py:212
             py checkout                   /srv/shop/app/views.py:91
             py Flask.dispatch_request     /srv/shop/lib/flask/app.py:1484
                _PyFunction_Vectorcall     Objects/call.c:393
                _PyObject_Call             Objects/call.c:290
                slot_tp_call               Objects/typeobject.c:7494
                _PyObject_MakeTpCall       Objects/call.c:214
                _PyEval_EvalFrameDefault   Python/ceval.c:4774
             py SyncWorker.handle_request  /srv/shop/lib/gunicorn/workers/sync.py:177
             py SyncWorker.run             /srv/shop/lib/gunicorn/workers/sync.py:130
                _PyEval_Vector             Python/ceval.c:6435
                Py_RunMain                 Modules/main.c:680
                _start                     ../sysdeps/x86_64/start.S:115

      13.9% █▍           3.8 MiB    970  update_refs
             cause gc; origin fork
                update_refs (inlined)         ./Modules/gcmodule.c:390
                deduce_unreachable (inlined)  ./Modules/gcmodule.c:1103
                gc_collect_main               ./Modules/gcmodule.c:1202
                _PyObject_GC_Alloc            ./Modules/gcmodule.c:2283
                PyDict_Copy                   ./Objects/dictobject.c:2876
                _PyEval_EvalFrameDefault      Python/ceval.c:4980
             py context                       /srv/shop/app/context.py:31
             py checkout                      /srv/shop/app/views.py:91
             py Flask.dispatch_request        /srv/shop/lib/flask/app.py:1484
                _PyFunction_Vectorcall        Objects/call.c:393
                _PyObject_Call                Objects/call.c:290
                slot_tp_call                  Objects/typeobject.c:7494
                _PyObject_MakeTpCall          Objects/call.c:214
                _PyEval_EvalFrameDefault      Python/ceval.c:4774
             py SyncWorker.handle_request     /srv/shop/lib/gunicorn/workers/sync.py:177
             py SyncWorker.run                /srv/shop/lib/gunicorn/workers/sync.py:130
                _PyEval_Vector                Python/ceval.c:6435
                Py_RunMain                    Modules/main.c:680
                _start                        ../sysdeps/x86_64/start.S:115

       8.8% ▉            2.4 MiB    612  sock_recv_impl
             cause kernel; origin fork
                sock_recv_impl             ./Modules/socketmodule.c:3480
                _PyEval_EvalFrameDefault   Python/ceval.c:4980
             py recv                       /usr/lib/python3.11/socket.py:706
             py checkout                   /srv/shop/app/views.py:91
             py Flask.dispatch_request     /srv/shop/lib/flask/app.py:1484
                _PyFunction_Vectorcall     Objects/call.c:393
                _PyObject_Call             Objects/call.c:290
                slot_tp_call               Objects/typeobject.c:7494
                _PyObject_MakeTpCall       Objects/call.c:214
                _PyEval_EvalFrameDefault   Python/ceval.c:4774
             py SyncWorker.handle_request  /srv/shop/lib/gunicorn/workers/sync.py:177
             py SyncWorker.run             /srv/shop/lib/gunicorn/workers/sync.py:130
                _PyEval_Vector             Python/ceval.c:6435
                Py_RunMain                 Modules/main.c:680
                _start                     ../sysdeps/x86_64/start.S:115
      ... 9 more: 6.6 MiB, 1,678 pages (24.1%)
    ");
}

#[test]
fn main_table_by_type() {
    insta::assert_snapshot!(main_table(By::Type), @"
    Object types  3 of 14
      SHARE              COPIED  PAGES  OBJECT TYPE
      35.9% ███▋        9.8 MiB  2,500  str
             cause refcount; origin fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.10 µs  p90 2.92 µs  p99 3.10 µs  max  277 µs
             age     min 20.0 ms  p50  2.77 s  p90  5.37 s  p99  5.96 s  max  6.02 s
             100.0%  Catalog.render  /srv/shop/app/catalog.py:212

      23.9% ██▍         6.5 MiB  1,667  dict
             cause refcount 47.2%, gc 43.8%, object 9.0%; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.08 µs  p90 2.91 µs  p99 3.10 µs  max 89.5 µs
             age     min 20.0 ms  p50  2.24 s  p90  4.93 s  p99  5.91 s  max  6.01 s
              47.2%  Catalog.render  /srv/shop/app/catalog.py:212
              43.8%  context  /srv/shop/app/context.py:31
               9.0%  Session.touch  /srv/shop/app/sessions.py:47

       8.8% ▉           2.4 MiB    612  (no object: kernel)
             cause kernel; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.08 µs  p90 2.91 µs  p99 3.10 µs  max 68.4 µs
             age     min 20.0 ms  p50  2.04 s  p90  5.22 s  p99  5.93 s  max  6.01 s
             100.0%  recv  /usr/lib/python3.11/socket.py:706
      ... 11 more: 8.5 MiB, 2,183 pages (31.4%)
    ");
}

#[test]
fn main_table_by_process() {
    insta::assert_snapshot!(main_table(By::Process), @"
    Processes and their call sites  3 of 5
      SHARE               COPIED  PAGES  PROCESS
      46.1% ████▋       12.5 MiB  3,210  4243 gunicorn: worke
             cause refcount 66.4%, data 12.5%, gc 11.8%, kernel 9.3%; origin fork
              55.5%  Catalog.render  /srv/shop/app/catalog.py:212
              12.5%  std::_Hashtable<std::string…e>>>::_M_insert_unique_node  …/12/bits/hashtable.h:1719
              11.8%  context  /srv/shop/app/context.py:31
              20.2%  in 3 call sites more

      42.0% ████▎       11.4 MiB  2,923  4244 gunicorn: worke
             cause refcount 62.0%, gc 20.2%, kernel 10.7%, object 7.2%; origin fork 99.7%, ksm 0.3%
              54.6%  Catalog.render  /srv/shop/app/catalog.py:212
              20.2%  context  /srv/shop/app/context.py:31
              10.7%  recv  /usr/lib/python3.11/socket.py:706
              14.5%  in 3 call sites more

       9.3% ▉            2.5 MiB    645  4245 gunicorn: worke
             cause refcount 50.4%, unknown 27.9%, gc 21.7%; origin fork 72.1%, file 27.9%
              50.4%  Catalog.render  /srv/shop/app/catalog.py:212
              27.9%  libssl.so.3+0x4a1f0
              21.7%  idle  /srv/shop/gunicorn.conf.py:12
      ... 2 more: 736.0 KiB, 184 pages (2.6%)
    ");
}

#[test]
fn main_table_by_file() {
    insta::assert_snapshot!(main_table(By::File), @"
    Files  3 of 11
      SHARE               COPIED  PAGES  FILE
      59.3% █████▉      16.1 MiB  4,127  /srv/shop/app/catalog.py
             cause refcount; origin fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.09 µs  p90 2.91 µs  p99 3.10 µs  max  277 µs
             age     min 20.0 ms  p50  2.56 s  p90  5.19 s  p99  5.93 s  max  6.02 s
              89.7%  Catalog.render  /srv/shop/app/catalog.py:212
              10.3%  Catalog.render  /srv/shop/app/catalog.py:219

      13.9% █▍           3.8 MiB    970  /srv/shop/app/context.py
             cause gc; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.06 µs  p90 2.91 µs  p99 3.10 µs  max 79.0 µs
             age     min 20.0 ms  p50  2.11 s  p90  4.75 s  p99  5.90 s  max  6.01 s
             100.0%  context  /srv/shop/app/context.py:31

       8.8% ▉            2.4 MiB    612  /usr/lib/python3.11/socket.py
             cause kernel; origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.08 µs  p90 2.91 µs  p99 3.10 µs  max 68.4 µs
             age     min 20.0 ms  p50  2.04 s  p90  5.22 s  p99  5.93 s  max  6.01 s
             100.0%  recv  /usr/lib/python3.11/socket.py:706
      ... 8 more: 4.9 MiB, 1,253 pages (18.0%)
    ");
}

#[test]
fn main_table_by_cause() {
    insta::assert_snapshot!(main_table(By::Cause), @r"
    Causes and their call sites  3 of 7
      SHARE               COPIED  PAGES  CAUSE
      61.3% ██████▏     16.7 MiB  4,266  refcount
             origin fork 99.8%, ksm 0.2%; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.09 µs  p90 2.91 µs  p99 3.10 µs  max  277 µs
             age     min 20.0 ms  p50  2.46 s  p90  5.16 s  p99  5.93 s  max  6.02 s
              86.8%  Catalog.render  /srv/shop/app/catalog.py:212
              10.0%  Catalog.render  /srv/shop/app/catalog.py:219
               3.0%  std::_Sp_counted_base<(__g…policy)2>::_M_add_ref_copy  …/bits/shared_ptr_base.h:152
               0.2%  evil\u{1b}[2J\u{202e}eman\nfunction  /tmp/日本語/\u{7}.py:1

      15.9% █▋           4.3 MiB  1,110  gc
             origin fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.05 µs  p90 2.91 µs  p99 3.10 µs  max 79.0 µs
             age     min 20.0 ms  p50  1.81 s  p90  4.57 s  p99  5.87 s  max  6.01 s
              87.4%  context  /srv/shop/app/context.py:31
              12.6%  idle  /srv/shop/gunicorn.conf.py:12

       8.8% ▉            2.4 MiB    612  kernel
             origin fork; in 4243, 4244
             latency min 1.10 µs  p50 2.08 µs  p90 2.91 µs  p99 3.10 µs  max 68.4 µs
             age     min 20.0 ms  p50  2.04 s  p90  5.22 s  p99  5.93 s  max  6.01 s
             100.0%  recv  /usr/lib/python3.11/socket.py:706
      ... 4 more: 3.8 MiB, 974 pages (14.0%)
    ");
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for width in [72, 80, 100, 160, 250] {
        for &by in By::value_variants() {
            for line in written(&sample_with_losses(), by, 20, terminal(width)).lines() {
                assert!(screen::width(line) <= width, "{by:?} at {width}: {line:?}");
            }
        }
    }
}

#[test]
fn columns_go_rather_than_names_get_illegible() {
    let mut profile = sample();
    for process in &mut profile.processes {
        process.pid += 4_000_000;
    }
    let columns = |width| {
        let text = written(&profile, By::Type, 1, terminal(width));
        let (_, table) = text.split_once("\nProcesses ").unwrap();
        let titles = table.lines().nth(1).unwrap().split_whitespace();
        titles.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        columns(160),
        "PID COMMAND FORKED EXITED COPIED PAGES SHARE ONLY READ UNCHANGED NOT COPIED"
    );
    assert_eq!(
        columns(100),
        "PID COMMAND FORKED EXITED COPIED PAGES SHARE ONLY READ UNCHANGED"
    );
    assert_eq!(
        columns(80),
        "PID COMMAND FORKED EXITED COPIED SHARE ONLY READ UNCHANGED"
    );
    assert_eq!(
        columns(72),
        "PID COMMAND FORKED COPIED SHARE ONLY READ UNCHANGED"
    );
}

#[test]
fn columns_without_anything_to_say_are_not_there() {
    let mut profile = sample();
    for process in &mut profile.processes {
        (process.forked_at_s, process.exited_at_s) = (None, None);
        (process.unchanged, process.interpreter) = (None, None);
    }
    profile.totals.unchanged = None;
    let text = written(&profile, By::Site, 2, terminal(100));
    let (_, table) = text.split_once("\nProcesses").unwrap();
    insta::assert_snapshot!(table.split("\n\n").next().unwrap(), @"
    2 of 6
     PID  COMMAND            COPIED  PAGES  SHARE             ONLY READ  NOT COPIED
    4243  gunicorn: worke  12.5 MiB  3,210  46.1% ████▋           74.1%      15,371
    4244  gunicorn: worke  11.4 MiB  2,923  42.0% ████▎           82.1%      15,374
    ... 4 processes more: 3.2 MiB, 829 pages (11.9%)
    ");
}

#[test]
fn native_frames_stand_back_where_there_are_colours() {
    let coloured = Screen {
        color: true,
        ..terminal(100)
    };
    let text = written(&sample(), By::Site, 1, coloured);
    let line = |name| text.lines().find(|line| line.contains(name)).unwrap();
    assert!(line("py Flask").contains("py Flask.dispatch_request\x1b["));
    assert!(line("unicode_hash").starts_with("\x1b[2m"));
}

#[test]
fn names_are_whole_in_a_file() {
    for &by in By::value_variants() {
        let text = written(&sample(), by, 20, Screen::of_a_file());
        assert!(!text.contains('…'), "{by:?}");
    }
    let text = written(&sample(), By::Site, 20, Screen::of_a_file());
    let sites = sample().call_sites;
    let function = sites.iter().map(|site| &site.site.function);
    let longest = function.max_by_key(|name| name.len()).unwrap();
    assert!(longest.len() > 150 && text.contains(&**longest));
    let types = sites.iter().filter_map(|site| site.object_type.as_ref());
    let longest = types.max_by_key(|name| name.len()).unwrap();
    assert!(longest.len() > 200 && text.contains(&*escape(longest)));
}

#[test]
fn containers_are_named_with_their_processes() {
    let container = |digit: char, pod: Option<&str>| {
        Some(Container {
            id: digit.to_string().repeat(64),
            pod: pod.map(str::to_owned),
        })
    };
    let mut profile = sample();
    profile.processes[0].container = container('a', Some("1b2c3d4e-\x1b[2J"));
    profile.processes[1].container = container('a', Some("1b2c3d4e-\x1b[2J"));
    profile.processes[4].container = container('b', None);
    let text = written(&profile, By::Site, 3, terminal(100));
    let lines = text.lines().filter(|line| line.contains("in container"));
    let expected = [
        "  in container aaaaaaaaaaaa (pod 1b2c3d4e-\\u{1b}[2J): 4242, 4243",
        "  in container bbbbbbbbbbbb: 4246",
    ];
    assert_eq!(lines.collect::<Vec<_>>(), expected);
    let many = profile.processes[5].clone();
    profile.processes.extend((0..20_u8).map(|at| Process {
        pid: 5000 + u32::from(at),
        container: container(char::from(b'c' + at), None),
        ..many.clone()
    }));
    let text = written(&profile, By::Site, 3, terminal(100));
    assert_eq!(text.matches("in container").count(), 10);
    assert!(text.contains("  ... 12 containers more\n"), "{text}");
}

#[test]
fn runtimes_that_are_not_read_are_named_with_their_processes() {
    let mut profile = sample();
    let seen = |name: &str, version: Option<&str>| RuntimeSeen {
        name: name.to_owned(),
        version: version.map(str::to_owned),
    };
    for process in &mut profile.processes[..2] {
        process.runtimes = vec![seen("PHP", None)];
    }
    profile.processes[0]
        .runtimes
        .push(seen("Lua", Some("5.4.4")));
    let text = written(&profile, By::Site, 20, Screen::of_a_file());
    let pids = profile.processes.iter().map(|process| process.pid);
    let [first, second] = pids.take(2).collect::<Vec<_>>()[..] else {
        panic!("the sample has two processes");
    };
    let not_read = "its objects and functions are not read";
    assert!(
        text.contains(&format!("  Lua 5.4.4 in {first}: {not_read}\n")),
        "{text}"
    );
    assert!(
        text.contains(&format!("  PHP in {first}, {second}: {not_read}\n")),
        "{text}"
    );
}

#[test]
fn nothing_foreign_reaches_the_terminal_unescaped() {
    let mut profile = sample();
    let hostile = "\u{1b}]0;owned\u{7}\u{202e}<script>";
    profile.processes[0].interpreter = Some(InterpreterSeen {
        name: hostile.to_owned(),
        why: Some(hostile.to_owned()),
    });
    profile.processes[0].runtimes = vec![RuntimeSeen {
        name: hostile.to_owned(),
        version: Some(hostile.to_owned()),
    }];
    for site in &mut profile.call_sites {
        site.cause_reason = site.cause_reason.is_some().then(|| hostile.to_owned());
    }
    for &by in By::value_variants() {
        let text = written(&profile, by, 20, terminal(160));
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

/// The row of the main table that begins with this name, and its first lines.
fn row_of(profile: &Profile, name: &str, lines: usize) -> String {
    let text = written(profile, By::Site, 20, terminal(80));
    let row = text.lines().skip_while(|line| !line.contains(name));
    row.take(lines).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_has_no_name_is_shown_with_its_caller() {
    let mut profile = sample();
    let mut sites = profile.call_sites.iter_mut();
    let unnamed = sites
        .find(|site| site.site.function.contains("+0x"))
        .unwrap();
    unnamed.caller = Some(crate::profile::Site {
        function: "SSL_new\u{1b}".into(),
        file: Some("ssl/ssl_lib.c".into()),
        line: Some(77),
        ..unnamed.site.clone()
    });
    insta::assert_snapshot!(row_of(&profile, "libssl.so.3+0x4a1f0", 4), @r"
     2.6% ▎         720.0 KiB    180  libssl.so.3+0x4a1f0
           in `SSL_new\u{1b}`, ssl/ssl_lib.c:77
           /usr/lib/x86_64-linux-gnu/libssl.so.3 (no symbol)
           cause unknown (the instruction could not be read); origin file; in 4245
    ");
}

#[test]
fn frames_of_the_application_are_rows_of_their_own() {
    let text = written(&sample(), By::App, 20, terminal(80));
    let (_, table) = text.split_once("Frames of the application").unwrap();
    let row = table.lines().skip_while(|line| !line.contains("checkout"));
    let row: Vec<_> = row.take(6).collect();
    insta::assert_snapshot!(row.join("\n"), @r"
    8.8% ▊           2.4 MiB    612  checkout  views.py:91
          /srv/shop/app/views.py:91
          cause kernel; origin fork; in 4243, 4244
          latency min 1.10 µs  p50 2.08 µs  p90 2.91 µs  p99 3.10 µs  max 68.4 µs
          age     min 20.0 ms  p50  2.04 s  p90  5.22 s  p99  5.93 s  max  6.01 s
          100.0%  recv  /usr/lib/python3.11/socket.py:706
    ");
}
