"""What knows neither data nor networks: errors, files, registries, seeds, logs, threads and processes."""
