//! Streams, what they record, and events.

use std::ffi::{c_uint, c_void};
use std::sync::Mutex;
use std::time::Instant;

use super::{
    Answer, CAPTURE_INVALIDATED, CAPTURE_UNSUPPORTED, INVALID_CONTEXT, INVALID_VALUE, SUCCESS,
    Stream, StreamHandle, give, lock, refuse, stream, submit, unless_recording, without_context,
};
use crate::work::Work;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(to: *mut StreamHandle, _flags: c_uint) -> Answer {
    if without_context("cuStreamCreate") {
        return INVALID_CONTEXT;
    }
    let stream = Box::<Mutex<Stream>>::default();
    unsafe { give(to, Box::into_raw(stream).cast()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamDestroy_v2(_stream: StreamHandle) -> Answer {
    // Kept: a program makes few of them, and who uses one that is gone is to be answered all the same.
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamSynchronize(stream: StreamHandle) -> Answer {
    unless_recording(stream, "waiting")
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamWaitEvent(
    _stream: StreamHandle,
    _event: *mut c_void,
    _flags: c_uint,
) -> Answer {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamBeginCapture_v2(handle: StreamHandle, _mode: c_uint) -> Answer {
    let mut stream = lock(stream(handle));
    if (handle as usize) <= 2 || stream.recording.is_some() {
        return refuse(CAPTURE_UNSUPPORTED, "this stream cannot record");
    }
    *stream = Stream { recording: Some(Vec::new()), broken: false };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(handle: StreamHandle, status: *mut c_uint) -> Answer {
    let stream = lock(stream(handle));
    let found = match (&stream.recording, stream.broken) {
        (None, _) => 0,
        (Some(_), false) => 1,
        (Some(_), true) => 2,
    };
    unsafe { give(status, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(handle: StreamHandle, graph: *mut *mut c_void) -> Answer {
    let ended = std::mem::take(&mut *lock(stream(handle)));
    match ended.recording {
        Some(list) if !ended.broken => unsafe { give(graph, Box::into_raw(Box::new(list)).cast()) },
        _ => {
            unsafe { give(graph, std::ptr::null_mut()) };
            CAPTURE_INVALIDATED
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(
    to: *mut *mut c_void,
    graph: *mut c_void,
    _flags: u64,
) -> Answer {
    // SAFETY: made by `cuStreamEndCapture`.
    let list = unsafe { &*graph.cast::<Vec<Work>>() }.clone();
    unsafe { give(to, Box::into_raw(Box::new(list)).cast()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphUpload(_graph: *mut c_void, _stream: StreamHandle) -> Answer {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphLaunch(graph: *mut c_void, stream: StreamHandle) -> Answer {
    if without_context("cuGraphLaunch") {
        return INVALID_CONTEXT;
    }
    // SAFETY: made by `cuGraphInstantiateWithFlags`.
    for work in unsafe { &*graph.cast::<Vec<Work>>() } {
        work.check();
        submit(stream, work.clone());
    }
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecDestroy(graph: *mut c_void) -> Answer {
    // SAFETY: made by `cuGraphInstantiateWithFlags`, and given back once.
    drop(unsafe { Box::from_raw(graph.cast::<Vec<Work>>()) });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphDestroy(graph: *mut c_void) -> Answer {
    // SAFETY: made by `cuStreamEndCapture`, and given back once.
    drop(unsafe { Box::from_raw(graph.cast::<Vec<Work>>()) });
    SUCCESS
}

type Event = Mutex<Option<Instant>>;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(to: *mut *mut c_void, _flags: c_uint) -> Answer {
    if without_context("cuEventCreate") {
        return INVALID_CONTEXT;
    }
    unsafe { give(to, Box::into_raw(Box::<Event>::default()).cast()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventRecord(event: *mut c_void, _stream: StreamHandle) -> Answer {
    // SAFETY: made by `cuEventCreate`.
    *lock(unsafe { &*event.cast::<Event>() }) = Some(Instant::now());
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventSynchronize(_event: *mut c_void) -> Answer {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventQuery(_event: *mut c_void) -> Answer {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    begin: *mut c_void,
    end: *mut c_void,
) -> Answer {
    // SAFETY: made by `cuEventCreate`.
    let (begin, end) = unsafe { (&*begin.cast::<Event>(), &*end.cast::<Event>()) };
    match (*lock(begin), *lock(end)) {
        (Some(begin), Some(end)) => unsafe {
            give(milliseconds, (end - begin).as_secs_f32() * 1e3)
        },
        _ => INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: *mut f32,
    begin: *mut c_void,
    end: *mut c_void,
) -> Answer {
    unsafe { cuEventElapsedTime_v2(milliseconds, begin, end) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> Answer {
    // SAFETY: made by `cuEventCreate`, and given back once.
    drop(unsafe { Box::from_raw(event.cast::<Event>()) });
    SUCCESS
}
