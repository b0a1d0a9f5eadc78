//! Generates the messages of the peer greeting from schema/peer.proto.
//!
//! prost-build runs `protoc`, which .cargo/config.toml names for the whole workspace.

fn main() -> std::io::Result<()> {
    prost_build::compile_protos(&["schema/peer.proto"], &["schema"])
}
