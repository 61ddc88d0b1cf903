-- Keeps how many bytes of data the client's packet has.
function init()
  return { ["payload"] = tostring(true), ["flowint"] = { "app.client.length" } }
end

function match(args)
  ScFlowintSet(0, #args["payload"])
  return 1
end

return 0
