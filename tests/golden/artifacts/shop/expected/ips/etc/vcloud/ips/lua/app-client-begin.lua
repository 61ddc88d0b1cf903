-- Keeps the sequence number with which the client begins.
function init()
  return { ["buffer"] = tostring(true), ["flowint"] = { "app.client.first", "app.client.held" } }
end

function match(args)
  local header = args["buffer"]
  local a, b, c, d = header:byte(5, 8)
  ScFlowintSet(0, ((a * 256 + b) * 256 + c) * 256 + d)
  ScFlowintSet(1, 0)
  return 1
end

return 0
