//! Kernels written by hand, held to what they should find.

use std::sync::Arc;

use half::{bf16, f16};

use crate::compile::{Dim, compile};
use crate::memory;
use crate::ptx::Module;
use crate::work::{Launch, Work};

/// Memory of the device's with numbers in it, given back in the end.
struct Buffer {
    place: usize,
    len: usize,
}

impl Buffer {
    fn new(values: &[u32]) -> Self {
        let place = memory::allocate(4 * values.len()).unwrap();
        let from = values.as_ptr() as usize;
        Work::Copy { from, to: place, bytes: 4 * values.len() }.run();
        Self { place, len: values.len() }
    }

    fn floats(values: &[f32]) -> Self {
        Self::new(&values.iter().map(|value| value.to_bits()).collect::<Vec<_>>())
    }

    fn read(&self) -> Vec<u32> {
        let mut values = vec![0u32; self.len];
        let to = values.as_mut_ptr() as usize;
        Work::Copy { from: self.place, to, bytes: 4 * self.len }.run();
        values
    }

    fn read_floats(&self) -> Vec<f32> {
        self.read().into_iter().map(f32::from_bits).collect()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        assert!(memory::free(self.place));
    }
}

/// How a kernel is launched.
#[derive(Clone, Copy)]
struct Shape {
    blocks: u32,
    threads: u32,
    cluster: u32,
    dynamic_shared: u32,
    cooperative: bool,
}

const PLAIN: Shape =
    Shape { blocks: 1, threads: 32, cluster: 1, dynamic_shared: 0, cooperative: false };

/// Whether there is a compiler; without one there is nothing to be tested.
fn compiler() -> bool {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    std::process::Command::new(compiler).arg("--version").output().is_ok()
}

/// Runs the kernel `k` of a text on buffers.
fn run(text: &str, shape: Shape, buffers: &[&Buffer]) {
    let module = Module::parse(text).unwrap();
    let compiled = Arc::new(compile(&module, "k").unwrap());
    let mut parameters: Vec<u8> =
        buffers.iter().flat_map(|buffer| (buffer.place as u64).to_le_bytes()).collect();
    parameters.extend([0; 16]);
    let dim = |x| Dim { x, y: 1, z: 1 };
    Work::Launch(Launch {
        compiled,
        grid: dim(shape.blocks),
        threads: dim(shape.threads),
        dynamic_shared: shape.dynamic_shared,
        cluster: shape.cluster,
        cooperative: shape.cooperative,
        parameters,
    })
    .run();
}

/// A kernel of pointers `%a0`, `%a1` ... and the thread's number `%i`.
fn kernel(pointers: usize, body: &str) -> String {
    let parameters: Vec<_> = (0..pointers).map(|index| format!(".param .u64 p{index}")).collect();
    let loads: String =
        (0..pointers).map(|index| format!("ld.param.u64 %a{index}, [p{index}];\n")).collect();
    format!(
        ".version 9.0\n.target sm_90\n.address_size 64\n.extern .shared .align 16 .b8 dynamic[];\n\
         .visible .entry k({})\n{{\n.reg .b64 %a<{}>;\n.reg .b32 %i, %r<32>;\n.reg .b64 %rd<16>;\n\
         .reg .f32 %f<32>;\n.reg .f64 %fd<4>;\n.reg .b16 %rs<8>;\n.reg .pred %p<4>;\n{loads}\
         mov.u32 %r0, %ctaid.x;\nmov.u32 %r1, %ntid.x;\nmov.u32 %r2, %tid.x;\n\
         mad.lo.s32 %i, %r0, %r1, %r2;\nmul.wide.s32 %rd0, %i, 4;\n{body}\nret;\n}}\n",
        parameters.join(", "),
        pointers + 1
    )
}

#[test]
fn numbers_are_computed_as_they_should_be() {
    if !compiler() {
        return;
    }
    let x: Vec<f32> = (0..100).map(|i| (i as f32 - 50.0) * 0.37).collect();
    let (from, to) = (Buffer::floats(&x), Buffer::new(&[7; 100]));
    // Threads beyond the end leave.
    let body = "setp.gt.s32 %p1, %i, 99;\n@%p1 bra $END;\nadd.s64 %rd1, %a0, %rd0;\nadd.s64 %rd2, %a1, %rd0;\n\
                ld.global.f32 %f1, [%rd1];\nfma.rn.f32 %f2, %f1, 0f40000000, 0f3F800000;\n\
                setp.lt.f32 %p2, %f1, 0f00000000;\n@!%p2 bra $STORE;\nneg.f32 %f2, %f2;\n$STORE:\n\
                st.global.f32 [%rd2], %f2;\n$END:";
    run(&kernel(2, body), Shape { blocks: 4, ..PLAIN }, &[&from, &to]);
    let expected: Vec<f32> =
        x.iter().map(|x| x.mul_add(2.0, 1.0) * if *x < 0.0 { -1.0 } else { 1.0 }).collect();
    assert_eq!(to.read_floats(), expected);
}

#[test]
fn conversions_round_as_they_say() {
    if !compiler() {
        return;
    }
    let x = [0.0, -0.5, 1.5, 2.5, -2.5, 1.0e10, -1.0e10, 3.1e-5, 0.1, 1.0 + 1.0 / 256.0, f32::NAN];
    let (from, to) = (Buffer::floats(&x), Buffer::new(&[0; 7 * 32]));
    let convert = [
        "cvt.rni.s32.f32 %r4, %f1;",
        "cvt.rzi.u32.f32 %r5, %f1;",
        "cvt.rmi.f32.f32 %f2, %f1;\nmov.b32 %r6, %f2;",
        "cvt.rn.f16.f32 %rs1, %f1;\ncvt.u32.u16 %r7, %rs1;",
        "cvt.rn.bf16.f32 %rs2, %f1;\ncvt.s32.s16 %r8, %rs2;",
        "cvt.rna.tf32.f32 %r9, %f1;",
        "mov.b32 {%rs3, %rs4}, %f1;\nmov.b32 %r10, {%rs4, %rs3};",
    ];
    let stores: String =
        (0..7).map(|n| format!("st.global.u32 [%rd2+{}], %r{};\n", 128 * n, 4 + n)).collect();
    let body = format!(
        "setp.ge.u32 %p1, %i, {};\n@%p1 bra $END;\nadd.s64 %rd1, %a0, %rd0;\nadd.s64 %rd2, %a1, %rd0;\n\
         ld.global.f32 %f1, [%rd1];\n{}\n{stores}$END:",
        x.len(),
        convert.join("\n")
    );
    run(&kernel(2, &body), PLAIN, &[&from, &to]);
    let found = to.read();
    for (index, &x) in x.iter().enumerate() {
        let tf32 = if x.is_nan() { x.to_bits() } else { (x.to_bits() + 0x1000) & !0x1fff };
        let half = |bits: u16, nan: u16| if x.is_nan() { nan } else { bits };
        let expected = [
            x.round_ties_even() as i32 as u32,
            x as u32,
            x.floor().to_bits(),
            u32::from(half(f16::from_f32(x).to_bits(), 0x7e00)),
            i32::from(half(bf16::from_f32(x).to_bits(), 0x7fff) as i16) as u32,
            tf32,
            x.to_bits().rotate_left(16),
        ];
        for (way, &expected) in expected.iter().enumerate() {
            let found = found[32 * way + index];
            assert_eq!(found, expected, "{x} in way {way}: {found:#x} for {expected:#x}");
        }
    }
}

#[test]
fn threads_meet_in_blocks_warps_and_clusters() {
    if !compiler() {
        return;
    }
    // Turned around through shared memory, 64 threads a block; then summed over each warp.
    let x: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let (from, to) = (Buffer::floats(&x), Buffer::new(&[0; 256]));
    let body = "add.s64 %rd1, %a0, %rd0;\nadd.s64 %rd2, %a1, %rd0;\nld.global.f32 %f1, [%rd1];\n\
                mov.u32 %r3, dynamic;\nshl.b32 %r4, %r2, 2;\nadd.s32 %r5, %r3, %r4;\nsub.s32 %r6, %r3, %r4;\n\
                st.shared.f32 [%r5], %f1;\nbar.sync 0;\nld.shared.f32 %f2, [%r6+252];\nmov.b32 %r7, %f2;\n\
                shfl.sync.bfly.b32 %r8|%p1, %r7, 1, 31, -1;\nmov.b32 %f3, %r8;\nsub.f32 %f4, %f2, %f3;\n\
                fma.rn.f32 %f5, %f2, 0f42C80000, %f4;\nst.global.f32 [%rd2], %f5;";
    let shape = Shape { blocks: 4, threads: 64, dynamic_shared: 256, ..PLAIN };
    run(&kernel(2, body), shape, &[&from, &to]);
    let turned = |i: usize| (i / 64 * 64 + 63 - i % 64) as f32;
    let expected: Vec<f32> =
        (0..256).map(|i| turned(i) * 100.0 + turned(i) - turned(i ^ 1)).collect();
    assert_eq!(to.read_floats(), expected);

    // Every block of a cluster writes its number into the next one.
    let to = Buffer::new(&[9; 8]);
    let body = "mov.u32 %r3, %cluster_ctarank;\nadd.s32 %r4, %r3, 1;\nand.b32 %r4, %r4, 3;\nmov.u64 %rd3, dynamic;\n\
                cvta.shared.u64 %rd4, %rd3;\nmapa.u64 %rd5, %rd4, %r4;\nsetp.ne.s32 %p1, %r2, 0;\n\
                barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n@!%p1 st.u32 [%rd5], %r0;\n\
                barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\nld.shared.u32 %r5, [dynamic];\n\
                mul.wide.u32 %rd6, %r0, 4;\nadd.s64 %rd7, %a0, %rd6;\n@!%p1 st.global.u32 [%rd7], %r5;";
    run(&kernel(1, body), Shape { blocks: 8, cluster: 4, dynamic_shared: 16, ..PLAIN }, &[&to]);
    assert_eq!(to.read(), [3, 0, 1, 2, 7, 4, 5, 6]);

    // All blocks wait for each other in global memory, and add up.
    let (count, to) = (Buffer::new(&[0]), Buffer::new(&[0; 5]));
    let body = "setp.ne.s32 %p1, %r2, 0;\n@%p1 bra $END;\natom.global.add.u32 %r3, [%a0], 1;\n$WAIT:\n\
                ld.acquire.gpu.global.u32 %r4, [%a0];\nsetp.lt.u32 %p2, %r4, 5;\n@%p2 bra $WAIT;\n\
                mul.wide.u32 %rd6, %r0, 4;\nadd.s64 %rd7, %a1, %rd6;\nst.global.u32 [%rd7], %r4;\n$END:";
    run(&kernel(2, body), Shape { blocks: 5, cooperative: true, ..PLAIN }, &[&count, &to]);
    assert_eq!(to.read(), [5; 5]);
}

#[test]
fn tensor_cores_multiply_tiles() {
    if !compiler() {
        return;
    }
    // Whole numbers: exact in TF32, and so are their sums.
    let left: Vec<f32> = (0..16 * 8).map(|i| ((i * 7) % 23) as f32 - 11.0).collect();
    let right: Vec<f32> = (0..8 * 8).map(|i| ((i * 5) % 19) as f32 - 9.0).collect();
    let [a, b, c] = [Buffer::floats(&left), Buffer::floats(&right), Buffer::new(&[0; 16 * 8])];
    let mut body =
        String::from("shr.u32 %r3, %r2, 2;\nand.b32 %r4, %r2, 3;\nmov.f32 %f6, 0f3F800000;\n");
    let load = |to: usize, pointer: &str, row: String, column: String| {
        format!(
            "{row}{column}mad.lo.s32 %r22, %r20, 8, %r21;\nmul.wide.u32 %rd1, %r22, 4;\n\
             add.s64 %rd2, {pointer}, %rd1;\nld.global.u32 %r{to}, [%rd2];\n"
        )
    };
    let row = |from: &str, more: usize| format!("add.s32 %r20, {from}, {more};\n");
    let column = |from: &str, more: usize| format!("add.s32 %r21, {from}, {more};\n");
    for i in 0..4 {
        body += &load(8 + i, "%a0", row("%r3", i % 2 * 8), column("%r4", i / 2 * 4));
    }
    for i in 0..2 {
        body += &load(12 + i, "%a1", row("%r4", i * 4), column("%r3", 0));
    }
    body += "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1, %f2, %f3, %f4}, {%r8, %r9, %r10, %r11}, \
             {%r12, %r13}, {%f6, %f6, %f6, %f6};\nshl.b32 %r5, %r4, 1;\n";
    for i in 0..4 {
        body += &format!(
            "{}{}mad.lo.s32 %r22, %r20, 8, %r21;\nmul.wide.u32 %rd1, %r22, 4;\nadd.s64 %rd2, %a2, %rd1;\n\
             st.global.f32 [%rd2], %f{};\n",
            row("%r3", i / 2 * 8),
            column("%r5", i % 2),
            i + 1
        );
    }
    run(&kernel(3, &body), PLAIN, &[&a, &b, &c]);
    let product = |row: usize, column: usize| -> f32 {
        1.0 + (0..8).map(|k| left[row * 8 + k] * right[k * 8 + column]).sum::<f32>()
    };
    let expected: Vec<f32> = (0..16 * 8).map(|i| product(i / 8, i % 8)).collect();
    assert_eq!(c.read_floats(), expected);
}

#[test]
fn functions_carries_and_constants_are_known() {
    if !compiler() {
        return;
    }
    let to = Buffer::new(&[0; 4]);
    let body = "add.cc.u32 %r3, 4294967295, 2;\naddc.u32 %r4, 5, 0;\nmov.u64 %rd1, table;\ncvta.global.u64 %rd2, %rd1;\n\
                ld.global.u32 %r5, [%rd2+4];\n{\n.param .b32 param0;\nst.param.b32 [param0+0], %r5;\n.param .b32 retval0;\n\
                call.uni (retval0),\ntwice,\n(\nparam0\n);\nld.param.b32 %r6, [retval0+0];\n}\n\
                bfi.b32 %r7, 5, 0, 4, 3;\n@%p1 bra $END;\nst.global.v4.u32 [%a0], {%r3, %r4, %r6, %r7};\n$END:";
    let text = kernel(1, &body.replace("@%p1", "setp.ne.s32 %p1, %r2, 0;\n@%p1"));
    let helper = ".global .align 4 .b32 table[2] = {1, 21};\n\
                  .func (.param .b32 func_retval0) twice(.param .b32 twice_param_0)\n{\n.reg .b32 %r<3>;\n\
                  ld.param.u32 %r1, [twice_param_0];\nadd.s32 %r2, %r1, %r1;\nst.param.b32 [func_retval0+0], %r2;\nret;\n}\n";
    let text = text.replace(".visible .entry", &format!("{helper}.visible .entry"));
    run(&text, PLAIN, &[&to]);
    assert_eq!(to.read(), [1, 6, 42, 5 << 4]);
}

#[test]
fn what_is_not_known_is_named() {
    let module = Module::parse(&kernel(0, "wgmma.fence.sync.aligned;")).unwrap();
    let error = crate::translate::kernel(&module, "k").unwrap_err();
    assert!(error.contains("wgmma.fence.sync.aligned"), "{error}");
    assert!(crate::translate::kernel(&module, "other").is_err());
}
