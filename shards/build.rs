//! Nothing to build here. The package has a build script so that its build dependency
//! `protoc-bin-vendored` is downloaded with it: `tools/protoc` runs the compiler it carries when
//! raft's own build script asks for one.

fn main() {}
