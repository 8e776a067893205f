package jdsandbox

import "strings"

// The gateway's codes that the sandbox uses (docs/jd-api.md, Error codes).
const (
	codeLimited        Code = "2"
	codeNoVersion      Code = "4"
	codeNoTimestamp    Code = "7"
	codeBadTimestamp   Code = "8"
	codeNoSign         Code = "11"
	codeBadSign        Code = "12"
	codeBadFormat      Code = "13"
	codeNoMethod       Code = "14"
	codeUnknownMethod  Code = "15"
	codeNoToken        Code = "18"
	codeBadToken       Code = "19"
	codeNoAppKey       Code = "20"
	codeUnknownApp     Code = "21"
	codeNotPermitted   Code = "24"
	codeParamMissing   Code = "60"
	codeParamValue     Code = "61"
	codeJSONConversion Code = "62"
	codeBadJSON        Code = "63"
	codeNotYours       Code = "71"
)

// codeTexts are their texts, Chinese and English; [x] stands for a parameter.
var codeTexts = map[Code][2]string{
	"1": {"服务不可用", "missing system error"}, "2": {"限制时间内调用失败次数", "App Call Limited"},
	"3": {"请求被禁止", "Forbidden Request"},
	"4": {"缺少版本参数", "Missing Version"}, "5": {"不支持的版本号", "Unsupported Version"}, "6": {"非法的版本参数", "Invalid Version"},
	"7": {"缺少时间戳参数", "Missing Timestamp"}, "8": {"非法的时间戳参数", "Invalid Timestamp"},
	"9": {"缺少商家Id参数", "Missing VenderId"}, "10": {"无效的商家Id参数", "Invalid VenderId"},
	"11": {"缺少签名参数", "Missing Signature"}, "12": {"无效签名", "Invalid Signature"}, "13": {"无效数据格式", "Invalid Format"},
	"14": {"缺少方法名参数", "Missing Method"}, "15": {"不存在的方法名", "Invalid Method"},
	"18": {"缺少access_token参数", "Missing access_token"}, "19": {"无效access_token", "Invalid access_token"},
	"20": {"缺少app_key参数", "Missing app_key"}, "21": {"无效app_key", "Invalid app_key"},
	"22": {"授权者不是商家", "Authoriser is not a merchant"}, "23": {"该API已经停用", "API stop"}, "24": {"无权调用API", "No permission for this API"},
	"25": {"此应用不是上线状态", "App is not online"},
	"43": {"系统处理错误", "system error"}, "50": {"无效调用", "invalid get program"},
	"60": {"参数[x]不合法", "illegal parameter [x]"}, "61": {"参数[x]值不合法", "illegal value of parameter [x]"},
	"62": {"json转换时错误，错误的请求参数", "json conversion error"}, "63": {"json格式不合法", "illegal json"},
	"64": {"此类型商家无权调用本接口", "merchant type not entitled"},
	"65": {"平台连接后端服务超时", "platform connecting service timeout"}, "66": {"平台连接后端服务不可用", "platform connecting service not available"},
	"67": {"平台连接后端服务处理过程中出现未知异常信息", "unknown back-end exception"},
	"68": {"验证可选字段异常信息", "optional field check failed"}, "69": {"获取数据失败", "no data obtained"},
	"70": {"该订单正在出库中", "order is leaving the warehouse"},
	"71": {"当前的ID不属于此商家", "the ID does not belong to this merchant"}, "72": {"当前的用户不是此类型（如FBP,SOP等）的商家", "wrong merchant type"},
	"73":   {"该api是增值api，请将您的app入住云鼎平台方可调用", "app must run on the cloud platform"},
	"1100": {"参数错误", "parameter error"},
}

// refuse is a refusal with the gateway's text; param replaces [x].
func refuse(code Code, param string) *Refusal {
	text := codeTexts[code]
	return &Refusal{Code: code, ZH: strings.Replace(text[0], "[x]", "["+param+"]", 1), EN: strings.Replace(text[1], "[x]", "["+param+"]", 1)}
}

// refusal fills in what a refusal leaves empty. The caller holds jd.mu.
func (jd *JD) refusal(code Code, zh, en string) *Refusal {
	r := Refusal{Code: code, ZH: zh, EN: en}
	orElse(&r.Code, jd.knobs.Refusal.Code)
	if r.ZH == "" && r.EN == "" {
		if text, known := codeTexts[r.Code]; known {
			r.ZH, r.EN = text[0], text[1]
		} else {
			r.ZH, r.EN = jd.knobs.Refusal.ZH, jd.knobs.Refusal.EN
		}
	}
	return &r
}
