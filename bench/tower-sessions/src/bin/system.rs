//! With the system's allocator, as most would run it.

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    bench_tower_sessions::serve().await
}
