//! `nokv-fs status`: is the server healthy?

use std::time::Instant;

use anyhow::bail;
use nokvfs_meta::service::VolumeService;
use serde::Serialize;

use crate::connection::ServerArgs;
use crate::output::{self, Format};

/// `status`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Serialize)]
struct Status {
    server: String,
    reachable: bool,
    answer_ms: f64,
    trouble: Option<String>,
}

/// Asks the server for one volume and says how long the answer took. Fails if none comes.
pub async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let started = Instant::now();
    let asked = async {
        let volumes = args.server.volumes().await?;
        volumes.list_volumes(None, 1).await?;
        anyhow::Ok(())
    };
    let answer = match tokio::time::timeout(args.server.patience(), asked).await {
        Ok(answer) => answer.err().map(|error| format!("{error:#}")),
        Err(_) => Some(format!("no answer within {} s", args.server.timeout)),
    };
    let status = Status {
        server: args.server.server.clone(),
        reachable: answer.is_none(),
        answer_ms: started.elapsed().as_secs_f64() * 1e3,
        trouble: answer,
    };
    output::print(format, &status, |status| match &status.trouble {
        None => format!("{} answers in {:.1} ms", status.server, status.answer_ms),
        Some(trouble) => format!("{}: {trouble}", status.server),
    })?;
    if !status.reachable {
        bail!("{} is not healthy", status.server);
    }
    Ok(())
}
