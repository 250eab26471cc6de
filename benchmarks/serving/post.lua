-- One request again and again, for wrk; at the end its figures as one line of JSON.
local function read(name)
  local file = assert(io.open(os.getenv(name), "rb"))
  local bytes = file:read("*a")
  file:close()
  return bytes
end

wrk.method = "POST"
wrk.body = read("BODY_FILE")
wrk.headers["Content-Type"] = os.getenv("CONTENT_TYPE")
wrk.headers["Accept"] = os.getenv("ACCEPT")

function done(summary, latency, requests)
  local e = summary.errors
  print(string.format(
    '{"requests": %d, "seconds": %.6f, "bad": %d, "p50": %.1f, "p99": %.1f}',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
