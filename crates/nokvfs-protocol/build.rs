//! Compiles the messages. protox reads .proto files itself, so no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/metadata.proto"], ["proto"])?;
    prost_build::Config::new().bytes(["."]).skip_debug(["."]).compile_fds(files)?;
    Ok(())
}
