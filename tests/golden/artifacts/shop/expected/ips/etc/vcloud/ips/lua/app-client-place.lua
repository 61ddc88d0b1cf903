-- Says where the client's packet stands (vcloud.compile.ips.placing): 1 in order, 2 not in order, 3 nothing new.
function init()
  local names = {}
  for number, name in ipairs({ "first", "held", "at", "length" }) do names[number] = "app.client." .. name end
  return { ["buffer"] = tostring(true), ["flowint"] = names }
end

function match(args)
  local header = args["buffer"]
  local first, held, length = ScFlowintGet(0), ScFlowintGet(1), ScFlowintGet(3)
  local a, b, c, d = header:byte(5, 8)
  -- The SYN itself counts as one number. Numbers go from 0 to 2^32 - 1 and begin again.
  local offset = (((a * 256 + b) * 256 + c) * 256 + d - first - 1) % 4294967296
  if offset >= 2147483648 then offset = offset - 4294967296 end
  local at = 2
  if offset + length <= held then
    at = 3
  elseif offset >= 0 and offset <= held then
    at = 1
    ScFlowintSet(1, offset + length)
  end
  ScFlowintSet(2, at)
  return 1
end

return 0
